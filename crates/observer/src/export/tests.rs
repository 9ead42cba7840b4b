//! Exports of a ring, read back as files.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use flow::{
    event::{Flow, L4, TcpFlags, Time},
    feed::Feed,
    proto::flow::FlowFilter,
    ring::Capacity,
    testing::{at, lost, syn},
};
use prometheus_client::registry::Registry;
use serde_json::Value;

use super::*;

const RING: u128 = 7;
const LONG: Rotation = Rotation { bytes: u64::MAX, files: 3, age: None };

/// A flow that its source port tells from others.
fn flow(number: u16) -> Event {
    let l4 = L4::Tcp { source: number, destination: 80, flags: TcpFlags::SYN };
    at(number.into(), Flow { l4, ..syn() })
}

struct Export {
    feed: Feed,
    folder: tempfile::TempDir,
    rotation: Rotation,
    counts: ExportCounts,
}

impl Export {
    fn new(capacity: u64, rotation: Rotation) -> Self {
        let feed = Feed::new(Capacity::new(capacity).expect("a capacity"));
        let counts = ExportCounts::new(&mut Registry::default(), feed.readers().0);
        Self { feed, folder: tempfile::tempdir().expect("a folder"), rotation, counts }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("flows.log")
    }

    fn config(&self) -> Config {
        Config {
            path: self.path(),
            rotation: self.rotation,
            filters: Arc::default(),
            mask: Mask::default(),
            node: "vm".into(),
        }
    }

    fn append(&mut self, numbers: impl IntoIterator<Item = u16>) {
        self.feed.append(numbers.into_iter().map(flow));
    }

    fn exporter_of(&self, config: Config, ring: u128) -> Exporter {
        Exporter::new(config, (self.feed.readers().0, ring), self.counts.clone())
    }

    /// Runs an export that stops at once, which is when all that is stored is written.
    fn run(&self) {
        self.run_as(self.config(), RING);
    }

    fn run_as(&self, config: Config, ring: u128) {
        block_on(self.exporter_of(config, ring).run(async {}));
    }

    /// The ports of all flows, the oldest file first; every line is whole.
    fn ports(&self) -> Vec<u64> {
        let files = (1..10).rev().map(|number| state::with_suffix(&self.path(), &format!(".{number}")));
        files.chain([self.path()]).flat_map(|path| lines(&path)).filter_map(|line| port(&line)).collect()
    }
}

fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(future);
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "half a line");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn port(line: &Value) -> Option<u64> {
    line["flow"]["l4"]["TCP"]["source_port"].as_u64()
}

#[test]
fn lines_are_hubbles_answers_filtered_and_masked() {
    let mut export = Export::new(4095, LONG);
    export.append([1, 2]);
    export.feed.append([Event { time: Time(3), body: lost(5) }]);
    let only = FlowFilter { source_port: vec!["2".into()], ..FlowFilter::default() };
    let config = Config {
        filters: Filters::new(&[only], &[]).expect("a filter").into(),
        mask: Mask::new(&["l4", "verdict"]).expect("a mask"),
        ..export.config()
    };
    export.run_as(config, RING);
    let lines = lines(&export.path());
    assert_eq!(lines.len(), 2, "{lines:?}");
    let flow = serde_json::json!({"verdict": "FORWARDED", "l4":
        {"TCP": {"source_port": 2, "destination_port": 80, "flags": {"SYN": true}}}});
    assert_eq!((&lines[0]["flow"], &lines[0]["node_name"]), (&flow, &Value::from("vm")));
    assert_eq!(lines[1]["lost_events"]["num_events_lost"], "5");
    assert_eq!(export.counts.lines.get(), 2);
    let mode = fs::metadata(export.path()).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn files_are_put_aside_before_they_are_too_long() {
    let mut export = Export::new(4095, Rotation { bytes: 4000, files: 200, age: None });
    export.append(1..=300);
    export.run();
    let aside = fs::read_dir(export.folder.path()).expect("a folder").count();
    assert!(export.counts.rotations.get() > 10, "{}", export.counts.rotations.get());
    for entry in fs::read_dir(export.folder.path()).expect("a folder") {
        let length = entry.expect("an entry").metadata().expect("a file").len();
        assert!(length <= 4000, "{length}");
    }
    assert_eq!(aside as u64, export.counts.rotations.get() + 2, "and the current one, and the state");
    assert_eq!(export.counts.lines.get(), 300);

    // Only the newest are kept.
    let mut export = Export::new(4095, Rotation { bytes: 4000, files: 2, age: None });
    export.append(1..=300);
    export.run();
    let ports = export.ports();
    assert_eq!(ports.last(), Some(&300));
    assert!(ports.is_sorted() && ports.len() < 300 && ports.windows(2).all(|two| two[1] == two[0] + 1));
    assert_eq!(fs::read_dir(export.folder.path()).expect("a folder").count(), 4);
}

#[test]
fn a_file_is_put_aside_when_it_is_old_even_by_the_next_agent() {
    let mut export = Export::new(4095, Rotation { age: Some(Duration::from_secs(3600)), ..LONG });
    export.append([1]);
    export.run();
    export.append([2]);
    export.run();
    assert_eq!(export.counts.rotations.get(), 0, "it is not old");
    let mut state = state::load(&export.path()).expect("a state").expect("a state");
    state.begun -= 3600;
    state::save(&export.path(), &state).expect("saved");
    export.append([3]);
    export.run();
    assert_eq!((export.counts.rotations.get(), lines(&export.path()).len()), (1, 1));
    assert_eq!(export.ports(), [1, 2, 3]);
}

/// However an export ends, the next one of the same ring goes on where it was; one of another ring begins with it.
#[test]
fn an_export_goes_on_without_a_gap_and_without_a_double() {
    let mut export = Export::new(4095, LONG);
    export.append(1..=10);
    export.run();
    export.append(11..=14);
    export.run();
    assert_eq!(export.ports(), (1..=14).collect::<Vec<_>>());

    // It ends after it has written more than it has noted.
    let noted = state::load(&export.path()).expect("a state").expect("a state");
    export.append(15..=17);
    export.run();
    state::save(&export.path(), &noted).expect("saved");
    export.append(18..=19);
    export.run();
    assert_eq!(export.ports(), (1..=19).collect::<Vec<_>>());

    // It ends after it has put the file aside, which it notes before.
    let noted = state::load(&export.path()).expect("a state").expect("a state");
    fs::rename(export.path(), export.folder.path().join("flows.log.1")).expect("put aside");
    state::save(&export.path(), &noted).expect("saved");
    let aside: Vec<u64> = lines(&export.folder.path().join("flows.log.1")).iter().filter_map(port).collect();
    export.append(20..=21);
    export.run();
    let both: Vec<u64> = aside.iter().copied().chain(lines(&export.path()).iter().filter_map(port)).collect();
    assert_eq!(both, (*aside.first().expect("one")..=21).collect::<Vec<_>>());

    // A new agent has a new ring, whose numbers begin anew.
    let mut restarted = Export::new(4095, LONG);
    restarted.folder = export.folder;
    restarted.append(100..=101);
    restarted.run_as(restarted.config(), RING + 1);
    let last: Vec<u64> = lines(&restarted.path()).iter().filter_map(port).collect();
    assert_eq!(last, [20, 21, 100, 101]);
}

#[test]
fn half_a_line_of_a_crash_is_taken_away() {
    let mut export = Export::new(4095, LONG);
    export.append(1..=3);
    export.run();
    let whole = fs::read(export.path()).expect("a file");
    fs::write(export.path(), &whole[..whole.len() - 20]).expect("cut");
    fs::remove_file(state::with_suffix(&export.path(), ".state")).expect("a state");
    let mut restarted = Export::new(4095, LONG);
    restarted.folder = export.folder;
    restarted.append([9]);
    restarted.run_as(restarted.config(), RING + 1);
    assert_eq!(restarted.ports(), [1, 2, 9]);
}

/// While nothing can be written, nobody waits; afterwards the file has what the ring still holds, and says what it lost.
#[test]
fn a_folder_that_cannot_be_written_loses_what_the_ring_loses_and_says_so() {
    let mut export = Export::new(127, LONG);
    let folder = export.folder.path().join("later");
    fs::write(&folder, "a file where a folder should be").expect("written");
    let config = Config { path: folder.join("flows.log"), ..export.config() };
    let path = config.path.clone();
    let running = start(export.exporter_of(config, RING)).expect("a thread");
    until(|| export.counts.failing.get() == 1);
    export.append(1..=1000);
    fs::remove_file(&folder).and_then(|()| fs::create_dir(&folder)).expect("a folder");
    until(|| export.counts.failing.get() == 0);
    block_on(async { assert!(running.finish(Duration::from_secs(20)).await) });
    let lines = lines(&path);
    let ports: Vec<u64> = lines.iter().filter_map(port).collect();
    assert_eq!(ports, (874..=1000).collect::<Vec<_>>());
    assert_eq!(lines[0]["lost_events"]["num_events_lost"], "873", "{}", lines[0]);
    assert_eq!(export.counts.lost.get(), 873);
}

/// A device of 64 KiB: it is full, and has room again once somebody makes room.
#[test]
fn a_full_disk_stops_nobody_and_leaves_whole_lines() {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let mut export = Export::new(4095, LONG);
    let test = move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
        let size = Some("size=64k");
        mount(Some("none"), export.folder.path(), Some("tmpfs"), MsFlags::empty(), size).expect("a tmpfs");
        let filler = export.folder.path().join("filler");
        fs::write(&filler, vec![0; 40_000]).expect("room");
        // The thread is in the namespace of this one.
        let running = start(export.exporter_of(export.config(), RING)).expect("a thread");
        export.append(1..=80);
        until(|| export.counts.failing.get() == 1);
        // All whole, however little fitted.
        lines(&export.path());
        fs::remove_file(&filler).expect("a file");
        until(|| export.counts.failing.get() == 0);
        block_on(async { assert!(running.finish(Duration::from_secs(20)).await) });
        let ports = export.ports();
        assert_eq!(ports, (1..=80).collect::<Vec<_>>());
        assert_eq!(export.counts.lost.get(), 0);
    };
    thread::spawn(test).join().expect("the test");
}

/// It gives up in the end, rather than to keep the agent from ending.
#[test]
fn an_end_does_not_wait_for_a_disk() {
    let mut export = Export::new(127, LONG);
    let config = Config { path: PathBuf::from("/proc/no-such-folder/flows.log"), ..export.config() };
    export.append(1..=10);
    let running = start(export.exporter_of(config, RING)).expect("a thread");
    until(|| export.counts.failing.get() == 1);
    block_on(async { assert!(running.finish(Duration::from_secs(20)).await, "it ended by itself") });
}

fn until(condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "in vain");
        thread::sleep(Duration::from_millis(5));
    }
}
