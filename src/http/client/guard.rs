//! Where the client may go. Other people's input names the URLs we fetch, so a URL must not lead into our own network
//! (SSRF): scheme, port, host name and every IP address are checked (IANA special-purpose address registries,
//! RFC 6890).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// The longest URL we ask for, in bytes.
pub const MAX_URL_BYTES: usize = 4096;

/// Why a URL or an address is not asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the scheme {0} is not http or https")]
    Scheme(String),
    #[error("port {0} is not one for HTTP")]
    Port(u16),
    #[error("there are credentials in the URL")]
    Credentials,
    #[error("the URL is longer than {MAX_URL_BYTES} bytes")]
    Long,
    /// `localhost`, or a name without a dot.
    #[error("{0} is a name of a local network")]
    LocalName(String),
    #[error("{0} is {1}")]
    Address(IpAddr, Special),
    /// DNS has addresses, but not one that is public. The owner may mend that.
    #[error("{0} has no public address: {1} is {2}")]
    Resolved(String, IpAddr, Special),
    #[error("a redirect leads from https to http")]
    Downgrade,
}

/// What keeps an address from being an ordinary one of the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Loopback,
    /// RFC 1918, RFC 4193 (unique local), RFC 6598 (shared, behind a provider's NAT).
    Private,
    /// RFC 3927, RFC 4291 §2.5.6: cloud providers keep their secrets there.
    LinkLocal,
    /// "This host, this network" (RFC 1122 §3.2.1.3); Linux takes it for loopback.
    Unspecified,
    Multicast,
    /// 6to4, Teredo, IPv4-compatible and local NAT64: they wrap another address.
    Transition,
    /// Documentation, benchmarks, protocol assignments, broadcast and what was never given out.
    Reserved,
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Special::Loopback => "a loopback address",
            Special::Private => "a private address",
            Special::LinkLocal => "a link-local address",
            Special::Unspecified => "an unspecified address",
            Special::Multicast => "a multicast address",
            Special::Transition => "an address that wraps another one",
            Special::Reserved => "a reserved address",
        })
    }
}

/// The rules for one client.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// `federation.allow_private_addresses`: opens loopback and private addresses and local names, nothing else.
    pub allow_private_addresses: bool,
    /// Addresses taken for public ones, so that a test can have both kinds on one machine.
    pub as_public: Vec<IpAddr>,
}

impl Guard {
    /// Checks all that can be seen without DNS. To be asked before every request, redirects included: for an IP literal
    /// nobody asks the resolver. The `url` crate has normalised the odd spellings (`0x7f.1`, `2130706433`) by now.
    pub fn check_url(&self, url: &Url) -> Result<(), Refusal> {
        if url.as_str().len() > MAX_URL_BYTES {
            return Err(Refusal::Long);
        }
        let (true, Some(host)) = (matches!(url.scheme(), "http" | "https"), url.host()) else {
            return Err(Refusal::Scheme(url.scheme().to_owned()));
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::Credentials);
        }
        let port = url.port_or_known_default().unwrap_or(0);
        if !may_use_port(port) {
            return Err(Refusal::Port(port));
        }
        match host {
            Host::Ipv4(ip) => self.check_address(ip.into()),
            Host::Ipv6(ip) => self.check_address(ip.into()),
            Host::Domain(name) if self.allow_private_addresses || !is_local_name(name) => Ok(()),
            Host::Domain(name) => Err(Refusal::LocalName(name.to_owned())),
        }
    }

    pub fn check_address(&self, ip: IpAddr) -> Result<(), Refusal> {
        match special(ip) {
            None => Ok(()),
            Some(_) if self.as_public.contains(&ip) => Ok(()),
            Some(Special::Loopback | Special::Private) if self.allow_private_addresses => Ok(()),
            Some(why) => Err(Refusal::Address(ip, why)),
        }
    }

    /// What is left of the addresses of `name`. Errors: there were some, and not one may be asked.
    pub fn filter(&self, name: &str, mut addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, Refusal> {
        let mut last = None;
        addresses.retain(|ip| match self.check_address(*ip) {
            Err(Refusal::Address(ip, why)) => {
                last = Some((ip, why));
                false
            }
            _ => true,
        });
        match last {
            Some((ip, why)) if addresses.is_empty() => Err(Refusal::Resolved(name.to_owned(), ip, why)),
            _ => Ok(addresses),
        }
    }
}

/// Ports of other protocols, which a forged "HTTP" request could talk to. Below 1024 only the two of HTTP are open; the
/// list is that of the Fetch standard ("bad port"), with XMPP and common databases added.
const FOREIGN_PORTS: &[u16] = &[
    1433, 1521, 1719, 1720, 1723, 2049, 3306, 3659, 4045, 4190, 5060, 5061, 5222, 5223, 5269, 5270, 5347, 5432, 6000,
    6379, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080, 11211, 27017,
];

/// WebSub callbacks on odd ports are legitimate on public hosts, so everything above 1023 is open unless it is known to
/// be something else.
fn may_use_port(port: u16) -> bool {
    matches!(port, 80 | 443 | 1024..) && !FOREIGN_PORTS.contains(&port)
}

/// RFC 6761 §6.3 for localhost; a name without a dot is completed from the local search list.
fn is_local_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    !name.contains('.') || name.ends_with(".localhost")
}

/// `None` for an ordinary address. An IPv4 address inside of an IPv6 one is judged by itself where hosts really use it so
/// (v4-mapped sockets, NAT64 of IPv6-only networks).
pub fn special(ip: IpAddr) -> Option<Special> {
    match ip {
        IpAddr::V4(ip) => special_v4(ip),
        IpAddr::V6(ip) => special_v6(ip),
    }
}

fn special_v4(ip: Ipv4Addr) -> Option<Special> {
    Some(match ip.octets() {
        [0, ..] => Special::Unspecified,
        [127, ..] => Special::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Special::Private,
        [100, 64..=127, ..] => Special::Private,
        [169, 254, ..] => Special::LinkLocal,
        // RFC 7526: the anycast relays of 6to4 are gone.
        [192, 88, 99, _] => Special::Transition,
        [192, 0, 0, _] => Special::Reserved,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Special::Reserved,
        [198, 18..=19, ..] => Special::Reserved,
        [224..=239, ..] => Special::Multicast,
        [240..=255, ..] => Special::Reserved,
        _ => return None,
    })
}

fn special_v6(ip: Ipv6Addr) -> Option<Special> {
    let s = ip.segments();
    let embedded = || {
        let [.., a, b] = s;
        let ([a, b], [c, d]) = (a.to_be_bytes(), b.to_be_bytes());
        special_v4(Ipv4Addr::new(a, b, c, d))
    };
    Some(match s {
        [0, 0, 0, 0, 0, 0, 0, 0] => Special::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Special::Loopback,
        [0, 0, 0, 0, 0, 0xffff, ..] => return embedded(),
        // RFC 6052 §2.1: the well-known prefix of NAT64.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => return embedded(),
        [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] | [0x2001, 0, ..] | [0x2002, ..] => Special::Transition,
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Special::Reserved,
        [0x2000..=0x3fff, ..] => return None,
        [0xfc00..=0xfdff, ..] => Special::Private,
        [0xfe80..=0xfebf, ..] => Special::LinkLocal,
        [0xff00..=0xffff, ..] => Special::Multicast,
        // RFC 4291 §2.4: nothing outside of 2000::/3 has been given out as global unicast.
        _ => Special::Reserved,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expected: Option<Special>, addresses: &[&str]) {
        for text in addresses {
            assert_eq!(special(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn every_special_range_ends_where_the_registry_says() {
        use Special::*;
        check(None, &["1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"]);
        check(
            None,
            &["128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255"],
        );
        check(None, &["192.0.1.0", "192.0.3.0", "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0"]);
        check(
            None,
            &["198.17.255.255", "198.20.0.0", "198.51.99.255", "203.0.112.255", "203.0.114.0", "223.255.255.255"],
        );
        check(Some(Unspecified), &["0.0.0.0", "0.255.255.255", "::"]);
        check(Some(Loopback), &["127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]);
        check(Some(Private), &["10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0"]);
        check(Some(Private), &["100.64.0.0", "100.127.255.255", "fc00::", "fdff::1", "::ffff:10.0.0.1"]);
        check(Some(LinkLocal), &["169.254.169.254", "fe80::1", "febf::", "::ffff:169.254.169.254"]);
        check(Some(Multicast), &["224.0.0.1", "239.255.255.255", "ff02::1"]);
        check(Some(Transition), &["192.88.99.1", "2002:7f00:1::", "2001::1", "::7f00:1", "64:ff9b:1::7f00:1"]);
        check(
            Some(Reserved),
            &["192.0.0.8", "192.0.2.1", "198.18.0.0", "198.19.255.255", "198.51.100.1", "203.0.113.1"],
        );
        check(Some(Reserved), &["240.0.0.0", "255.255.255.255", "2001:db8::1", "2001:1ff::", "3fff:fff::", "4000::"]);
        check(Some(Reserved), &["100::", "5f00::", "fe00::", "fec0::", "1fff::"]);
        check(None, &["2000::", "2001:200::", "2606:4700::1", "3fff:1000::", "::ffff:8.8.8.8", "64:ff9b::808:808"]);
    }

    #[test]
    fn ports_below_1024_and_those_of_other_protocols_are_closed() {
        for open in [80, 443, 1024, 8080, 8443, 3000, 65535] {
            assert!(may_use_port(open), "{open}");
        }
        for closed in [0, 1, 21, 22, 25, 53, 81, 1023, 5222, 5347, 6379, 11211] {
            assert!(!may_use_port(closed), "{closed}");
        }
    }

    #[test]
    fn only_loopback_and_private_addresses_can_be_opened() {
        let open = Guard { allow_private_addresses: true, as_public: vec![] };
        for text in ["127.0.0.1", "::1", "10.1.2.3", "fd00::1", "100.64.0.1", "8.8.8.8"] {
            assert_eq!(open.check_address(text.parse().unwrap()), Ok(()), "{text}");
        }
        for text in ["169.254.169.254", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "2002:7f00:1::", "fe80::1"] {
            assert!(open.check_address(text.parse().unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn of_a_names_addresses_only_the_public_ones_stay() {
        let (public, private) = ("8.8.8.8".parse().unwrap(), "10.0.0.1".parse().unwrap());
        let guard = Guard::default();
        assert_eq!(guard.filter("x.example", vec![private, public]), Ok(vec![public]));
        let refused = guard.filter("x.example", vec![private]);
        assert_eq!(refused, Err(Refusal::Resolved("x.example".to_owned(), private, Special::Private)));
        assert_eq!(guard.filter("x.example", vec![]), Ok(vec![]));
    }
}
