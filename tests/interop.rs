//! The main job against real servers: every scenario runs on Debian's Prosody and on Debian's ejabberd.
//! Where a server is not installed its scenarios say so and end; with ROOKERY_REQUIRE_SERVERS=1 they fail.
//!
//! The people: alice, juliet, romeo and the nurse have accounts at `montague.test`; alice's posts stand at
//! `alice@social.montague.test`, our component.

mod support;

mod interop {
    pub mod harness;
}

/// One test per scenario and server.
macro_rules! on_both_servers {
    ($($room:ident :: $scenario:ident),* $(,)?) => {
        mod prosody {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                if let Some(server) = crate::support::servers::Kind::Prosody.start().await {
                    crate::interop::$room::$scenario(server).await;
                }
            })*
        }
        mod ejabberd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                if let Some(server) = crate::support::servers::Kind::Ejabberd.start().await {
                    crate::interop::$room::$scenario(server).await;
                }
            })*
        }
    };
}

on_both_servers! {
    harness::a_message_and_an_own_pep_item_pass_through_the_server,
    harness::a_killed_server_comes_back_with_its_accounts,
}
