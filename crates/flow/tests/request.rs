//! Command lines and the requests that they mean.

use clap::Parser;
use flow::{
    event::Time,
    filter::Filters,
    proto::{
        flow::{EventTypeFilter, FlowFilter, IpVersion, Verdict, Workload},
        observer::GetFlowsRequest,
    },
    request::{HUBBLE_MASK, LINE_MASK, ObserveArgs},
};

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    args: ObserveArgs,
}

const NOW: Time = Time(1_763_870_400_000_000_000);

fn request(line: &str) -> Result<GetFlowsRequest, String> {
    let command = Command::try_parse_from(std::iter::once("observe").chain(line.split_whitespace()))
        .map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())?;
    command.args.request(NOW).map_err(|error| error.to_string())
}

fn lists(line: &str) -> (Vec<FlowFilter>, Vec<FlowFilter>) {
    let request = request(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    // What the command makes, servers take.
    Filters::new(&request.whitelist, &request.blacklist).unwrap_or_else(|error| panic!("{line}: {error}"));
    (request.whitelist, request.blacklist)
}

fn filter(change: impl FnOnce(&mut FlowFilter)) -> FlowFilter {
    let mut filter = FlowFilter::default();
    change(&mut filter);
    filter
}

#[test]
fn a_plain_command_asks_for_the_last_twenty() {
    let request = request("").unwrap();
    assert_eq!((request.number, request.first, request.follow), (20, false, false));
    assert_eq!((request.whitelist.len(), request.blacklist.len()), (0, 0));
    let paths = request.field_mask.unwrap().paths;
    assert!(
        HUBBLE_MASK.iter().chain(LINE_MASK).eq(paths.iter().map(String::as_str).collect::<Vec<_>>().iter())
    );
    flow::mask::Mask::new(&paths).unwrap();
}

#[test]
fn parts_of_the_ring() {
    let part = |line| {
        let request = request(line).unwrap();
        (request.number, request.first, request.follow, request.since.map(|at| Time::from(at).0 - NOW.0))
    };
    assert_eq!(part("--last 5"), (5, false, false, None));
    assert_eq!(part("--first 5"), (5, true, false, None));
    assert_eq!(part("--all"), (u64::MAX, false, false, None));
    assert_eq!(part("-f"), (0, false, true, None));
    assert_eq!(part("-f --last 5"), (5, false, true, None));
    assert_eq!(part("--since 1m"), (0, false, false, Some(-60_000_000_000)));
    assert!(request("--until 1m").unwrap().until.is_some());
    assert!(request("--until 1m -f").unwrap().until.is_none());
}

#[test]
fn json_asks_for_everything_or_the_fields_that_are_named() {
    assert_eq!(request("-o json").unwrap().field_mask, None);
    assert_eq!(
        request("-o jsonpb --field-mask time,verdict").unwrap().field_mask.unwrap().paths,
        ["time", "verdict"]
    );
}

#[test]
fn either_end_is_two_filters() {
    let (white, black) = lists("--pod shop/web --port 80");
    assert!(black.is_empty());
    assert_eq!(
        white,
        [
            filter(|f| {
                f.source_pod = vec!["shop/web".into()];
                f.source_port = vec!["80".into()];
            }),
            filter(|f| {
                f.destination_pod = vec!["shop/web".into()];
                f.destination_port = vec!["80".into()];
            }),
        ]
    );
    assert_eq!(
        lists("--to-pod a --to-pod b --verdict DROPPED").0,
        [filter(|f| {
            f.destination_pod = vec!["a".into(), "b".into()];
            f.verdict = vec![Verdict::Dropped.into()];
        })]
    );
}

#[test]
fn not_is_about_the_next_flag_only() {
    let (white, black) = lists("--not --from-ip 10.0.0.1 --to-port 80 --not --protocol udp");
    assert_eq!(white, [filter(|f| f.destination_port = vec!["80".into()])]);
    assert_eq!(
        black,
        [filter(|f| {
            f.source_ip = vec!["10.0.0.1".into()];
            f.protocol = vec!["udp".into()];
        })]
    );
    assert_eq!(lists("--not -4").1, [filter(|f| f.ip_version = vec![IpVersion::IPv4.into()])]);
    assert_eq!(lists("--not --ipv6 -A").1, [filter(|f| f.ip_version = vec![IpVersion::IPv6.into()])]);
}

#[test]
fn namespaces_complete_names() {
    assert_eq!(
        lists("-n a").0,
        [filter(|f| f.source_pod = vec!["a/".into()]), filter(|f| f.destination_pod = vec!["a/".into()])]
    );
    assert_eq!(
        lists("--from-namespace a --from-namespace b --from-pod web").0,
        [filter(|f| f.source_pod = vec!["a/web".into(), "b/web".into()])]
    );
    assert_eq!(
        lists("--to-namespace a --to-service web").0,
        [filter(|f| f.destination_service = vec!["a/web".into()])]
    );
    assert_eq!(
        lists("--to-all-namespaces --to-pod web").0,
        [filter(|f| f.destination_pod = vec!["/web".into()])]
    );
}

#[test]
fn values_with_a_form() {
    assert_eq!(
        lists("-t trace:to-endpoint -t drop -t 129:0").0,
        [filter(|f| {
            let event = |kind, sub_type: Option<i32>| EventTypeFilter {
                r#type: kind,
                match_sub_type: sub_type.is_some(),
                sub_type: sub_type.unwrap_or_default(),
            };
            f.event_type = vec![event(4, Some(0)), event(1, None), event(129, Some(0))];
        })]
    );
    let one = |line: &str| lists(line).0.remove(0);
    assert_eq!(one("--from-identity world --from-identity 300").source_identity, [2, 300]);
    let flags = one("--tcp-flags syn,ACK").tcp_flags;
    assert!(flags[0].syn && flags[0].ack && !flags[0].fin);
    assert_eq!(
        one("--to-workload Deployment/web").destination_workload,
        [Workload { name: "web".into(), kind: "Deployment".into() }]
    );
    assert_eq!(one("--drop-reason-desc POLICY_DENIED").drop_reason_desc, [133]);
    assert_eq!(one("--http-header a:b:c").http_header[0].value, "b:c");
    assert_eq!(one("--unencrypted").encrypted, [false]);
    assert_eq!(one("--dns-query ^a").dns_query, ["^a"]);
}

#[test]
fn raw_filters_are_added() {
    let (white, black) = lists(
        r#"--from-port 1 --allowlist {"verdict":["DROPPED"]}{"uuid":["x"]} --denylist {"protocol":["udp"]}"#,
    );
    assert_eq!(white.len(), 3);
    assert_eq!(black, [filter(|f| f.protocol = vec!["udp".into()])]);
}

#[test]
fn what_makes_no_request_is_explained() {
    for (line, text) in [
        ("--first 1 --last 1", "cannot set both --first and --last"),
        ("--first 1 -f", "cannot set both --first and --follow"),
        ("--last 1 --all", "cannot set both --last and --all"),
        ("-o table -f", "table output format is not compatible with follow mode"),
        ("--field-mask time", "only JSON output is compatible with a custom field mask"),
        ("--since yesterday", "parse --since"),
        ("--allowlist {", "parse --allowlist"),
        ("--not --not --pod a", "error: consecutive --not statements"),
        ("--pod a --not", "error: trailing --not found in the arguments"),
        ("--pod a --to-pod b", "error: filters --to-pod and --pod cannot be combined"),
        ("--ip 1.1.1.1 -n a", "error: filters --ip and --namespace cannot be combined"),
        ("--from-namespace a --from-pod b/c", "error: namespace conflict: \"a\" does not contain \"b/c\""),
        ("--to-pod a/b --to-service c/d", "error: namespace of service \"c/d\" conflict with pod \"a\""),
        ("--verdict dropped", "error: invalid --verdict value: \"dropped\""),
        ("--tcp-flags syn,x", "error: unknown tcp flag: x"),
        (
            "--traffic-direction up",
            "error: invalid --traffic-direction value: \"up\", expected ingress or egress",
        ),
        (
            "-t nonsense",
            "error: unable to parse type \"nonsense\", not a known type name and not a numeric value",
        ),
        ("--http-header a", "error: invalid --http-header value: \"a\", expected name:value"),
        ("--ip-trace-id 0", "error: invalid --ip-trace-id value: \"0\""),
    ] {
        assert_eq!(request(line).unwrap_err(), text, "{line}");
    }
    assert!(
        request("--identity nobody")
            .unwrap_err()
            .starts_with("error: invalid security identity \"nobody\", expected one of ")
    );
}
