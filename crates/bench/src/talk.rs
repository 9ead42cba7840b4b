//! The two ends of a measured connection, each a process of its own: pinned to a CPU, in a pod's namespace.
//!
//! One byte is asked and answered by one byte, or a stream is swallowed and its length answered. A client closes with a
//! reset (`SO_LINGER` 0) after the answer: no TIME_WAIT stays at either end, so that ports are free again at once and no
//! old time stamp refuses a new connection (PAWS).

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use nix::sys::socket::{setsockopt, sockopt::Linger};
use serde::{Deserialize, Serialize};

use crate::machine;

/// First byte of what a client sends.
const ONE_BYTE: u8 = 1;
const STREAM: u8 = 2;

/// Longest wait for anything; reached only where something is broken.
const PATIENCE: Duration = Duration::from_secs(5);
/// Not counted: caches and tables warm up.
const WARM_UP: f64 = 0.05;

/// Answer on a TCP port until killed; says "ready" once it listens.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    port: u16,
    #[command(flatten)]
    place: Place,
}

/// Ask for a while; prints a [`Heard`] as JSON.
#[derive(Debug, clap::Args)]
pub(crate) struct Ask {
    what: What,
    to: SocketAddr,
    seconds: f64,
    #[command(flatten)]
    place: Place,
}

/// Where a process runs, its network namespace aside.
#[derive(Debug, clap::Args)]
struct Place {
    #[arg(long)]
    cpu: usize,
    /// The folder of a threaded cgroup (v2).
    #[arg(long)]
    cgroup: Option<PathBuf>,
}

impl Place {
    fn enter(&self) -> anyhow::Result<()> {
        machine::pin(self.cpu)?;
        if let Some(cgroup) = &self.cgroup {
            let path = cgroup.join("cgroup.threads");
            fs::write(&path, "0").with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum What {
    Connections,
    Stream,
}

/// What a client measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Heard {
    /// Connections, or bytes, per second.
    pub(crate) per_second: f64,
    /// Microseconds that connect(2) took; 0 for a stream.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Serve {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.place.enter()?;
        let listener = TcpListener::bind(("0.0.0.0", self.port)).context("listen")?;
        println!("ready");
        loop {
            let (stream, _) = listener.accept().context("accept")?;
            match answer(stream) {
                // The client's reset may arrive before this end has closed.
                Err(error) if error.kind() != ErrorKind::ConnectionReset => eprintln!("server: {error}"),
                _ => {}
            }
        }
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    if first[0] == ONE_BYTE {
        return stream.write_all(&first);
    }
    let (mut buffer, mut total) = (vec![0; 1 << 18], 0u64);
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(&total.to_be_bytes()),
            count => total += count as u64,
        }
    }
}

impl Ask {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.place.enter()?;
        let heard = match self.what {
            What::Connections => self.connections()?,
            What::Stream => self.stream()?,
        };
        println!("{}", serde_json::to_string(&heard)?);
        Ok(())
    }

    fn connections(&self) -> anyhow::Result<Heard> {
        self.connect_for(WARM_UP)?;
        let start = Instant::now();
        let mut took = self.connect_for(self.seconds)?;
        let seconds = start.elapsed().as_secs_f64();
        took.sort_unstable();
        let percentile = |part: usize| f64::from(took[(took.len() - 1) * part / 100]) / 1e3;
        Ok(Heard { per_second: took.len() as f64 / seconds, p50: percentile(50), p99: percentile(99) })
    }

    /// Nanoseconds that each connect(2) took.
    fn connect_for(&self, seconds: f64) -> anyhow::Result<Vec<u32>> {
        let (start, mut took) = (Instant::now(), vec![]);
        while took.is_empty() || start.elapsed().as_secs_f64() < seconds {
            let before = Instant::now();
            let mut stream =
                TcpStream::connect(self.to).with_context(|| format!("connect to {}", self.to))?;
            took.push(before.elapsed().as_nanos().min(u128::from(u32::MAX)) as u32);
            setsockopt(&stream, Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
            let mut byte = [ONE_BYTE];
            stream.write_all(&byte).and_then(|()| stream.read_exact(&mut byte)).context("exchange a byte")?;
            ensure!(byte == [ONE_BYTE], "another byte than was sent");
        }
        Ok(took)
    }

    fn stream(&self) -> anyhow::Result<Heard> {
        let mut stream = TcpStream::connect(self.to).with_context(|| format!("connect to {}", self.to))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (buffer, start) = (vec![STREAM; 1 << 18], Instant::now());
        while start.elapsed().as_secs_f64() < self.seconds {
            stream.write_all(&buffer)?;
        }
        stream.shutdown(Shutdown::Write)?;
        let mut total = [0; 8];
        stream.read_exact(&mut total).context("learn how much arrived")?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Heard { per_second: u64::from_be_bytes(total) as f64 / seconds, p50: 0.0, p99: 0.0 })
    }
}
