//! IP addresses and prefixes in objects. Reads leading zeros as decimal, as the real server always has. Never resolves
//! names.

use std::net::IpAddr;

use ipnet::IpNet;

use super::FieldErrors;

const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address; `172.30.0.041` is `172.30.0.41`.
pub(super) fn ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse().ok();
    }
    let octets: Vec<&str> = text.split('.').collect();
    let canonical: Vec<String> = octets
        .iter()
        .map(|octet| octet.parse::<u8>().map(|n| n.to_string()))
        .collect::<Result<_, _>>()
        .ok()?;
    canonical.join(".").parse().ok()
}

/// A prefix, blanks around it tolerated.
pub(super) fn cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.trim().split_once('/')?;
    IpNet::new(ip(address)?, length.parse().ok()?).ok()
}

pub(super) fn check_ip(field: &str, text: &str, errors: &mut FieldErrors) -> Option<IpAddr> {
    let parsed = ip(text);
    if parsed.is_none() {
        errors.invalid(field, text, NOT_AN_IP);
    }
    parsed
}

pub(super) fn check_cidr(field: &str, text: &str, errors: &mut FieldErrors) -> Option<IpNet> {
    let parsed = cidr(text);
    if parsed.is_none() {
        errors.invalid(field, text, NOT_A_CIDR);
    }
    parsed
}

/// Refuses addresses that mean something else than one host somewhere.
pub(super) fn check_reachable(field: &str, text: &str, ip: IpAddr, errors: &mut FieldErrors) {
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    for (refused, detail) in [
        (ip.is_unspecified(), "may not be unspecified (0.0.0.0 or ::)"),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (link_local_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ] {
        if refused {
            errors.invalid(field, text, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{cidr, ip};

    #[test]
    fn leading_zeros_are_decimal() {
        assert_eq!(ip("172.30.0.041").unwrap().to_string(), "172.30.0.41");
        assert_eq!(cidr(" 203.0.113.000/25").unwrap().to_string(), "203.0.113.0/25");
    }

    #[test]
    fn nonsense() {
        for text in ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "a.b.c.d", "1.2.3.4/24", "::g"] {
            assert!(ip(text).is_none(), "{text}");
        }
        for text in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/"] {
            assert!(cidr(text).is_none(), "{text}");
        }
    }
}
