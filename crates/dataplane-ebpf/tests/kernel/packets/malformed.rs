//! Broken packets: dropped, and counted by what is broken.

use model::TrafficPolicy::Cluster;

use super::{
    Bench, DROP, NEXT, REDIRECT, each,
    irregular::{fragments, sum_header, transport, with_options},
};
use crate::wire::{ACK, Body, FIN, Frame, SYN, repair};

fn served(bench: &mut Bench<'_>) {
    let (tcp, udp) = (bench.at(|p| p.remote_pod, 8080), bench.at(|p| p.remote_pod, 5353));
    bench.program(vec![bench.web(Cluster, &[(tcp, false)]), bench.dns(&[(udp, false)])]);
}

/// Breaks a plain frame; its checksums are made right again.
fn broken(frame: &[u8], break_it: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = frame.to_vec();
    break_it(&mut frame);
    if frame[12..14] == [8, 0] && frame.len() >= 14 + usize::from(frame[14] & 15) * 4 {
        sum_header(&mut frame);
    }
    frame
}

#[test]
fn broken_headers_are_dropped_by_reason() {
    each(|bench| {
        served(bench);
        let (pod, v4) = (bench.at(|p| p.pod, 40000), bench.plan.pod.is_ipv4());
        let syn = Frame::tcp(pod, bench.at(|p| p.cluster_ip, 80), SYN).bytes();
        let question = Frame::udp(pod, bench.at(|p| p.cluster_ip, 53)).bytes();
        let (start, length) = (transport(&syn), if v4 { 16 } else { 18 });
        let set = |frame: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            frame[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let payload = |bytes: u16| (bytes + if v4 { 20 } else { 0 }).to_be_bytes();
        let version = if v4 { 0x65 } else { 0x40 };
        let mut cases: Vec<(Vec<u8>, &str)> = vec![
            (broken(&syn, |f| set(f, 14, &[version])), "dropped_version"),
            // The frame ends before the packet does.
            (broken(&syn, |f| set(f, length, &payload(21))), "dropped_length"),
            (broken(&syn, |f| f.truncate(start + 12)), "dropped_length"),
            // The packet ends before its header does, whatever the frame holds.
            (broken(&syn, |f| set(f, length, &payload(19))), "dropped_length"),
            (broken(&question, |f| set(f, length, &payload(7))), "dropped_length"),
            (broken(&question, |f| set(f, start + 4, &[0, 7])), "dropped_length"),
            (broken(&question, |f| set(f, start + 4, &[0, 17])), "dropped_length"),
            (broken(&syn, |f| set(f, start + 12, &[0x40])), "dropped_data_offset"),
            (broken(&syn, |f| set(f, start + 12, &[0x60])), "dropped_data_offset"),
            (broken(&syn, |f| set(f, start, &[0, 0])), "dropped_zero_port"),
        ];
        if v4 {
            let with_bad_option = with_options(&syn, &[7, 1, 0, 0]);
            let with_long_option = with_options(&syn, &[7, 9, 0, 0]);
            let mut wrong_sum = syn.clone();
            wrong_sum[24] ^= 1;
            cases.extend([
                (broken(&syn, |f| set(f, 14, &[0x44])), "dropped_header_length"),
                (with_bad_option, "dropped_header_length"),
                (with_long_option, "dropped_header_length"),
                (broken(&syn, |f| set(f, 16, &19u16.to_be_bytes())), "dropped_length"),
                (broken(&syn, |f| set(f, 14, &[0x4f])), "dropped_length"),
                (wrong_sum, "dropped_header_checksum"),
            ]);
        }
        for (frame, reason) in cases {
            println!("{reason}");
            bench.pod_sends(&frame).expect(DROP, &frame, reason);
        }
        // Nothing of this was remembered, and padding is no mistake.
        let mut padded = syn.clone();
        padded.extend([0; 6]);
        assert_eq!(bench.pod_sends(&padded).reasons(), [("forwarded_new".to_owned(), 1)].into());
    });
}

#[test]
fn a_frame_that_ends_inside_its_headers_is_dropped() {
    each(|bench| {
        served(bench);
        if bench.plan.pod.is_ipv4() {
            let frame = Frame::tcp(bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 80), SYN).bytes();
            let mut cut = with_options(&frame, &[1; 40]);
            cut.truncate(50);
            bench.pod_sends(&cut).expect(DROP, &cut, "dropped_truncated");
        }
    });
}

#[test]
fn frontends_serve_only_senders_that_can_be_answered() {
    each(|bench| {
        served(bench);
        let v4 = bench.plan.pod.is_ipv4();
        let vip = bench.at(|p| p.vip, 80);
        let sources: &[&str] = if v4 {
            &["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"]
        } else {
            &["::", "::1", "ff02::1"]
        };
        for source in sources {
            let source = std::net::SocketAddr::new(source.parse().expect("address"), 4000);
            let frame = Frame::tcp(source, vip, SYN).bytes();
            bench.wire_brings(&frame).expect(DROP, &frame, "dropped_source");
            // What concerns no frontend is the stack's: address configuration starts like this.
            let other = Frame::udp(source, bench.at(|p| p.client, 67)).bytes();
            bench.pod_sends(&other).expect(NEXT, &other, "passed_unrelated");
        }
        let land = Frame::tcp(vip, vip, SYN).bytes();
        bench.wire_brings(&land).expect(DROP, &land, "dropped_land");
        // UDP may have no source port: it wants no answer.
        let oneway = Frame::udp(bench.at(|p| p.pod, 0), bench.at(|p| p.cluster_ip, 53)).bytes();
        assert_eq!(bench.pod_sends(&oneway).reasons(), [("forwarded_new".to_owned(), 1)].into());
    });
}

#[test]
fn what_was_sent_to_many_is_not_answered() {
    each(|bench| {
        bench.program(vec![bench.web(Cluster, &[]), bench.dns(&[])]);
        let group = [1, 0, 0x5e, 0, 0, 1];
        let (pod, vip) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 80));
        for frame in [Frame::tcp(pod, vip, SYN), Frame::udp(pod, bench.at(|p| p.cluster_ip, 53))] {
            let from = frame.from;
            let frame = frame.macs(group, from).bytes();
            bench.pod_sends(&frame).expect(DROP, &frame, "dropped_unanswerable");
        }
    });
}

/// The answer is composed, not made of the question: it is no fragment, and has no options.
#[test]
fn refusals_of_odd_packets_are_plain() {
    each(|bench| {
        bench.program(vec![bench.web(Cluster, &[]), bench.dns(&[])]);
        let (pod, frontend) = (bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 80));
        let mut syn = Frame::tcp(pod, frontend, SYN);
        syn.body = Body::Tcp { flags: SYN, sequence: 1000, acknowledgment: 0, payload: vec![1; 64] };
        let parts = fragments(&syn, 5, 48);
        let answer = bench.pod_sends(&parts[0]);
        assert_eq!((answer.verdict, answer.reasons()), (REDIRECT, [("refused_tcp".to_owned(), 1)].into()));
        if pod.is_ipv4() {
            assert_eq!(answer.frame[14], 0x45);
            assert_eq!(answer.frame[20] & 0x3f, 0, "neither MF nor an offset");
        }
        let start = transport(&answer.frame);
        assert_eq!(answer.frame[start + 13], 0x14, "RST and ACK");
        // As much as has come: the rest of the segment is not known yet.
        assert_eq!(answer.frame[start + 8..start + 12], (1000u32 + 1 + 28).to_be_bytes());
        let mut summed = answer.frame.clone();
        repair(&mut summed);
        assert_eq!(summed, answer.frame, "checksums");
        bench.pod_sends(&parts[1]).expect(DROP, &parts[1], "refused_tcp");

        for flags in [SYN | FIN, FIN, 0] {
            let mut odd = Frame::tcp(pod, frontend, flags);
            odd.body = Body::Tcp { flags, sequence: 7, acknowledgment: 9, payload: vec![2; 10] };
            let answer = bench.pod_sends(&odd.bytes());
            let controls = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            assert_eq!(answer.frame[start + 8..start + 12], (7 + 10 + controls).to_be_bytes(), "{flags}");
            assert_eq!(answer.frame[start + 13], 0x14);
        }
        let ack = Frame::tcp(pod, frontend, ACK);
        for odd in super::irregular::decorations(&ack.bytes()) {
            let answer = bench.pod_sends(&odd);
            assert_eq!(answer.reasons(), [("refused_tcp".to_owned(), 1)].into());
            assert_eq!(answer.frame.len(), start + 20, "no options");
            assert_eq!(answer.frame[start + 4..start + 8], 2000u32.to_be_bytes());
        }
    });
}

#[test]
fn unreachable_messages_quote_up_to_the_ports_whatever_lies_before_them() {
    each(|bench| {
        bench.program(vec![bench.dns(&[])]);
        let question = Frame::udp(bench.at(|p| p.pod, 40000), bench.at(|p| p.cluster_ip, 53)).bytes();
        let start = transport(&question);
        for odd in super::irregular::decorations(&question) {
            let answer = bench.pod_sends(&odd);
            assert_eq!(answer.reasons(), [("refused_udp".to_owned(), 1)].into());
            let quoted = odd.len() - 14 - b"question".len();
            assert_eq!(answer.frame[start + 8..], odd[14..14 + quoted.min(128)]);
            let mut summed = answer.frame.clone();
            repair(&mut summed);
            assert_eq!(summed, answer.frame, "checksums");
        }
    });
}
