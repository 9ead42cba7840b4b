//! Addresses and prefixes as Kubernetes objects spell them. Pure.
//!
//! Old objects hold IPv4 numbers with leading zeros ("010.0.0.1"); Kubernetes reads them as decimal and so
//! does this. An IPv4 address mapped into IPv6 is the IPv4 address.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// Reads an address, leading zeros tolerated.
///
/// # Errors
/// The reason, fit to stand behind a field path.
pub(crate) fn parse_ip(text: &str) -> Result<IpAddr, String> {
    let canonical = if text.contains(':') { text.to_owned() } else { without_leading_zeros(text) };
    canonical
        .parse::<IpAddr>()
        .map(|address| address.to_canonical())
        .map_err(|_| format!("{text:?} is not a valid IP address"))
}

/// Reads a prefix, leading zeros and blanks around it tolerated; host bits are cleared.
///
/// # Errors
/// The reason, fit to stand behind a field path.
pub(crate) fn parse_cidr(text: &str) -> Result<IpNet, String> {
    let invalid = || format!("{text:?} is not a valid CIDR prefix, as 10.9.8.0/24 or 2001:db8::/64");
    let (address, length) = text.trim().split_once('/').ok_or_else(invalid)?;
    let address = parse_ip(address).map_err(|_| invalid())?;
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length = length.parse().ok().filter(|_| digits).ok_or_else(invalid)?;
    IpNet::new(address, length).map(|net| net.trunc()).map_err(|_| invalid())
}

/// Why `address` cannot be an endpoint, where it cannot: the ranges that the API server refuses, because
/// they would let a Service reach the node itself.
pub(crate) fn refused_as_endpoint(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("may not be unspecified")
    } else if address.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    } else if address.is_multicast() {
        Some("may not be in the multicast range (224.0.0.0/4, ff00::/8)")
    } else if is_link_local(address) {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    } else {
        None
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => Ipv6Addr::is_unicast_link_local(&address),
    }
}

fn without_leading_zeros(text: &str) -> String {
    let trimmed = text.split('.').map(|number| match number.trim_start_matches('0') {
        "" if !number.is_empty() => "0",
        rest => rest,
    });
    trimmed.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fact_9_leading_zeros_are_decimal_and_canonicalised() {
        for (text, canonical) in [
            ("172.30.0.041", "172.30.0.41"),
            ("010.0.00.000", "10.0.0.0"),
            ("10.0.0.9", "10.0.0.9"),
            ("2001:db8::0001", "2001:db8::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(parse_ip(text).map(|ip| ip.to_string()), Ok(canonical.into()), "{text}");
        }
        for (text, canonical) in [
            ("203.0.113.000/025", "203.0.113.0/25"),
            (" 10.1.2.3/8 ", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
        ] {
            assert_eq!(parse_cidr(text).map(|net| net.to_string()), Ok(canonical.into()), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_text() {
        for text in
            ["", "10.0.0", "10.0.0.256", "10.0.0.1.2", "10..0.1", "a.b.c.d", "10.0.0.1/24", "+1.0.0.1"]
        {
            let reason = parse_ip(text).expect_err(text);
            assert!(reason.contains(&format!("{text:?}")), "{reason}");
        }
        for text in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "/8", "2001:db8::/129"] {
            parse_cidr(text).expect_err(text);
        }
    }

    #[test]
    fn endpoints_may_not_reach_the_node_itself() {
        for address in
            ["0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "169.254.169.254", "fe80::1"]
        {
            assert!(refused_as_endpoint(parse_ip(address).expect(address)).is_some(), "{address}");
        }
        assert_eq!(refused_as_endpoint(parse_ip("10.20.0.3").expect("address")), None);
    }
}
