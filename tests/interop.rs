//! The main job against real servers: every scenario runs on Debian's Prosody and on Debian's ejabberd.
//! Where a server is not installed its scenarios say so and end; with ROOKERY_REQUIRE_SERVERS=1 they fail.
//!
//! The people: alice, juliet, romeo and the nurse have accounts at `montague.test`; alice's posts stand at
//! `alice@social.montague.test`, our component.

mod support;

mod interop {
    pub mod fanout;
    pub mod harness;
    pub mod hostile;
    pub mod link;
    pub mod nodes;
    pub mod order;
    pub mod restart;
    pub mod story;
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
    link::a_wrong_secret_is_said_in_words,
    link::a_name_the_server_does_not_know_is_said_in_words,
    link::a_second_instance_is_said_in_words,
    link::a_server_that_comes_back_is_found_again,
    story::the_first_post_makes_the_account_and_a_subscriber_hears_of_the_next_at_once,
    story::the_same_post_stands_on_the_web,
    story::an_http_subscriber_gets_a_signed_push,
    story::any_client_can_post_by_chat,
    nodes::a_leaf_node_lives_and_dies_at_the_component,
    nodes::everybody_may_ask_who_we_are,
    order::a_retract_sent_behind_its_publish_finds_the_item,
    order::sixteen_in_flight_keep_their_order_and_the_node_its_bound,
    order::a_prefix_declared_on_the_iq_survives,
    restart::what_was_acknowledged_is_there_after_kill_9_and_what_was_promised_arrives,
    restart::a_drain_ends_in_order,
    fanout::a_server_killed_amid_a_fan_out_to_2000_loses_nobody,
    hostile::no_stanza_of_a_user_ends_the_component_s_stream,
}
