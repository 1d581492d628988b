//! Which addresses may be connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// The whole IANA IPv4 Special-Purpose Address Registry (RFC 6890), also what it calls globally reachable: no provider
/// is there. Multicast (RFC 5771), and one address that only clouds give a meaning.
const SPECIAL_V4: &[Ipv4Net] = &[
    v4(0, 0, 0, 0, 8),        // this network; Linux connects 0.0.0.0 to loopback
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // shared by carriers (CGNAT)
    v4(127, 0, 0, 0, 8),      // loopback
    v4(169, 254, 0, 0, 16),   // link-local; metadata of most clouds
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // protocol assignments
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 31, 196, 0, 24),  // AS112
    v4(192, 52, 193, 0, 24),  // AMT
    v4(192, 88, 99, 0, 24),   // 6to4 relays
    v4(192, 168, 0, 0, 16),   // private
    v4(192, 175, 48, 0, 24),  // AS112
    v4(198, 18, 0, 0, 15),    // benchmarks
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved, and broadcast
    v4(168, 63, 129, 16, 32), // the host of a virtual machine in Azure: public by number, internal by route
];

/// All that is handed out for the public internet. Outside of it lie `::`, `::1`, IPv4-compatible and IPv4-mapped
/// addresses, NAT64 (`64:ff9b::/96`, `64:ff9b:1::/48`), discard (`100::/64`), SRv6 (`5f00::/16`), unique local,
/// link-local, site-local and multicast ones.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 0, 3);

/// What the IANA IPv6 Special-Purpose Address Registry keeps inside of it.
const SPECIAL_V6: &[Ipv6Net] = &[
    v6(0x2001, 0, 0, 23),     // protocol assignments: Teredo, benchmarks, AMT, AS112, ORCHID, drone ids
    v6(0x2001, 0xdb8, 0, 32), // documentation
    v6(0x2002, 0, 0, 16),     // 6to4, which holds an IPv4 address
    v6(0x2620, 0x4f, 0x8000, 48), // AS112
    v6(0x3fff, 0, 0, 20),     // documentation
];

/// Whether this is a unicast address of the public internet.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !SPECIAL_V4.iter().any(|net| net.contains(&ip)),
        IpAddr::V6(ip) => GLOBAL_V6.contains(&ip) && !SPECIAL_V6.iter().any(|net| net.contains(&ip)),
    }
}

/// The networks that an operator allows beside the public internet, as `ANNALS_EGRESS_ALLOW` lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed(Vec<IpNet>);

/// An entry of the list that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{entry}` {why}")]
pub struct AllowedError {
    /// The entry as it was written.
    pub entry: String,
    /// What is wrong with it, and what to write.
    pub why: String,
}

impl Allowed {
    /// Whether the operator named this address. An IPv4-mapped IPv6 address is in no network: its IPv4 form is what
    /// has to be allowed, and to be connected to.
    pub fn contains(&self, ip: IpAddr) -> bool {
        !is_mapped(ip) && self.0.iter().any(|net| net.contains(&ip))
    }

    /// Whether a connection to this address may be made: it is public, or the operator named it.
    pub fn admits(&self, ip: IpAddr) -> bool {
        is_public(ip) || self.contains(ip)
    }
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

impl FromStr for Allowed {
    type Err = AllowedError;

    /// Reads networks in CIDR notation or single addresses, parted by commas. An empty text allows nothing.
    fn from_str(list: &str) -> Result<Self, AllowedError> {
        if list.trim().is_empty() {
            return Ok(Self::default());
        }
        list.split(',').map(|entry| network(entry.trim())).collect::<Result<_, _>>().map(Self)
    }
}

fn network(entry: &str) -> Result<IpNet, AllowedError> {
    let wrong = |why: String| AllowedError { entry: entry.to_owned(), why };
    let net = match (entry.parse::<IpNet>(), entry.parse::<IpAddr>()) {
        (Ok(net), _) => net,
        (_, Ok(ip)) => IpNet::from(ip),
        _ if entry.is_empty() => return Err(wrong("is an empty entry: a comma too many".to_owned())),
        _ => return Err(wrong("is neither an address nor a network such as 10.0.0.0/8 or fd00::/8".to_owned())),
    };
    if is_mapped(net.addr()) {
        return Err(wrong("is an IPv4 network in IPv6 form: write it as IPv4".to_owned()));
    }
    if net.trunc() != net {
        return Err(wrong(format!("has bits beyond its prefix: write {} or the single address", net.trunc())));
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: &[&str] = &[
        "0.0.0.0",
        "0.1.2.3",
        "0.255.255.255",
        "10.0.0.0",
        "10.255.255.255",
        "100.64.0.0",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.0.0.53",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.0.1",
        "169.254.169.254",
        "169.254.170.2",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.8",
        "192.0.0.170",
        "192.0.0.192",
        "192.0.2.1",
        "192.31.196.1",
        "192.52.193.1",
        "192.88.99.1",
        "192.168.0.1",
        "192.168.255.255",
        "192.175.48.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.7",
        "203.0.113.7",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.254",
        "255.255.255.255",
        "::",
        "::1",
        "::2",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::ffff:8.8.8.8",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::8.8.8.8",
        "64:ff9b:1::1",
        "64:ff9b:1:ffff::a00:1",
        "100::1",
        "100:0:0:1::1",
        "2001::1",
        "2001:0:4136:e378::1",
        "2001:1::1",
        "2001:2::1",
        "2001:3::1",
        "2001:4:112::1",
        "2001:10::1",
        "2001:20::1",
        "2001:30::1",
        "2001:1ff:ffff::1",
        "2001:db8::1",
        "2001:db8:ffff::1",
        "2002:7f00:1::1",
        "2002:808:808::1",
        "2620:4f:8000::1",
        "3fff::1",
        "3fff:fff::1",
        "4000::1",
        "5f00::1",
        "8000::1",
        "fc00::1",
        "fd00:ec2::254",
        "fdff::1",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "feff::1",
        "ff00::1",
        "ff02::1",
        "ff0e::1",
        "1fff::1",
    ];
    const PUBLIC: &[&str] = &[
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.1",
        "168.63.129.15",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.0.3.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "198.51.101.0",
        "203.0.112.255",
        "203.0.114.0",
        "223.255.255.255",
        "2000::1",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2001:db7:ffff::1",
        "2001:db9::1",
        "2003::1",
        "2606:4700:4700::1111",
        "2a00:1450::1",
        "3ffe:ffff::1",
        "3fff:1000::1",
    ];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_public_addresses_are_admitted() {
        let none = Allowed::default();
        for text in REFUSED {
            assert!(!none.admits(ip(text)), "{text} is admitted");
        }
        for text in PUBLIC {
            assert!(none.admits(ip(text)), "{text} is refused");
            assert!(!none.contains(ip(text)), "{text} counts as allowed");
        }
    }

    #[test]
    fn what_the_operator_names_is_admitted_too() {
        let allowed: Allowed = " 10.1.0.0/16, 127.0.0.1 ,fd00::/8, 8.8.8.8/32".parse().unwrap();
        for (text, admitted) in [
            ("10.1.2.3", true),
            ("10.2.0.0", false),
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("fd12::1", true),
            ("fc12::1", false),
            ("::ffff:10.1.2.3", false),
            ("::ffff:127.0.0.1", false),
            ("64:ff9b::a01:203", false),
        ] {
            assert_eq!(allowed.admits(ip(text)), admitted, "{text}");
        }
        assert!(allowed.contains(ip("8.8.8.8")));
        assert!("".parse::<Allowed>().unwrap().0.is_empty());
    }

    #[test]
    fn everything_allowed_is_still_not_the_mapped_form() {
        let all: Allowed = "0.0.0.0/0,::/0".parse().unwrap();
        assert!(all.admits(ip("127.0.0.1")) && all.admits(ip("::1")));
        assert!(!all.admits(ip("::ffff:127.0.0.1")));
    }

    #[test]
    fn a_wrong_entry_says_what_is_wrong() {
        for (list, said) in [
            ("10.0.0.0/8,intern", "`intern` is neither an address nor a network"),
            ("10.0.0.0/33", "`10.0.0.0/33` is neither"),
            ("10.0.0.5/8", "write 10.0.0.0/8 or the single address"),
            ("10.0.0.1,,::1", "a comma too many"),
            ("::ffff:10.0.0.0/104", "write it as IPv4"),
            ("::ffff:10.0.0.1", "write it as IPv4"),
            ("0x7f.1", "neither"),
        ] {
            let error = list.parse::<Allowed>().unwrap_err().to_string();
            assert!(error.contains(said), "{list}: {error}");
        }
    }
}
