//! Results in the spec's form, written and read. Pure.

use std::net::IpAddr;

use agent::wire::{AddRequest, Added, AddedAddress};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::error::Error;

/// The result of ADD: both ends of the pair, the addresses of the pod's, and its way out.
pub(crate) fn of_add(version: &str, request: &AddRequest, added: &Added) -> Value {
    let endpoint = &added.endpoint;
    // Before 1.0 every address says its family (spec 0.4.0, "ips").
    let old = version.starts_with("0.");
    let ip = |address: &AddedAddress| {
        let mut ip = json!({"address": address.address, "gateway": address.gateway, "interface": 1});
        if old {
            ip["version"] = if address.gateway.is_ipv4() { "4" } else { "6" }.into();
        }
        ip
    };
    let route = |address: &AddedAddress| {
        let destination = if address.gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        json!({"dst": destination, "gw": address.gateway})
    };
    let mut interfaces = [
        json!({"name": endpoint.interface, "mac": endpoint.host_mac}),
        json!({"name": request.attachment.ifname, "mac": endpoint.mac, "sandbox": request.netns}),
    ];
    // Since 1.1 an interface says its MTU (spec 1.1.0, "interfaces").
    if let (Some(mtu), false) = (added.mtu, old || version.starts_with("1.0.")) {
        interfaces.iter_mut().for_each(|interface| interface["mtu"] = mtu.into());
    }
    json!({
        "cniVersion": version,
        "interfaces": interfaces,
        "ips": added.addresses.iter().map(ip).collect::<Vec<_>>(),
        "routes": added.addresses.iter().map(route).collect::<Vec<_>>(),
        "dns": {},
    })
}

/// The addresses in an earlier result, as CHECK is given it.
///
/// # Errors
/// There is none, or it holds what is no address.
pub(crate) fn addresses_of(result: Option<&Value>) -> Result<Vec<IpAddr>, Error> {
    let Some(result) = result else {
        return Err(Error::configuration("prevResult: required for CHECK".into()));
    };
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    ips.iter()
        .enumerate()
        .map(|(i, ip)| {
            let text = ip["address"].as_str().unwrap_or_default();
            let net: Result<IpNet, _> = text.parse();
            net.map(|net| net.addr()).map_err(|_| {
                Error::configuration(format!("prevResult.ips[{i}].address: {text:?} is no address"))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use agent::wire::Attachment;
    use model::{Endpoint, MacAddress, PodName};

    use super::*;

    fn example() -> (AddRequest, Added) {
        let pod = PodName { namespace: "ns".into(), name: "web-0".into() };
        let request = AddRequest {
            attachment: Attachment { container_id: "c1".into(), ifname: "eth0".into() },
            netns: "/run/netns/p".into(),
            pod: pod.clone(),
            mtu: None,
        };
        let endpoint = Endpoint {
            pod,
            addresses: vec![],
            interface: "tp0".into(),
            ifindex: 7,
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            host_mac: MacAddress([2, 0, 0, 0, 0, 2]),
            netns: None,
            l7: Default::default(),
        };
        let address = |address: &str, gateway: &str| AddedAddress {
            address: address.parse().expect("prefix"),
            gateway: gateway.parse().expect("address"),
        };
        let addresses = vec![address("10.20.0.2/32", "169.254.1.1"), address("fd20::2/128", "fe80::1")];
        (request, Added { endpoint, addresses, mtu: Some(1450) })
    }

    #[test]
    fn a_result_of_the_newest_version() {
        let (request, added) = example();
        let expected = json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "tp0", "mac": "02:00:00:00:00:02", "mtu": 1450},
                {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/p", "mtu": 1450},
            ],
            "ips": [
                {"address": "10.20.0.2/32", "gateway": "169.254.1.1", "interface": 1},
                {"address": "fd20::2/128", "gateway": "fe80::1", "interface": 1},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
            "dns": {},
        });
        let result = of_add("1.1.0", &request, &added);
        assert_eq!(result, expected);
        let addresses: Vec<_> =
            addresses_of(Some(&result)).expect("addresses").iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.20.0.2", "fd20::2"]);
    }

    #[test]
    fn old_versions_name_the_family_of_every_address_and_no_mtu() {
        let (request, added) = example();
        assert_eq!(of_add("1.0.0", &request, &added)["interfaces"][1]["mtu"], Value::Null);
        let result = of_add("0.4.0", &request, &added);
        assert_eq!(result["ips"][0]["version"], "4");
        assert_eq!(result["ips"][1]["version"], "6");
    }

    #[test]
    fn check_without_a_readable_earlier_result_is_refused() {
        assert_eq!(addresses_of(None).expect_err("none").code, 7);
        let error = addresses_of(Some(&json!({"ips": [{"address": "x"}]}))).expect_err("no address");
        assert_eq!(error.message, "prevResult.ips[0].address: \"x\" is no address");
    }
}
