//! `twinplane observe`: flows as a node (or a relay) serves them, in Hubble's lines, and how much of them was seen; and what
//! servers of flows say of themselves.

mod ask;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use flow::{
    event::Time,
    input::Input,
    print::{Colour, Coverage, Printer, Tally},
    proto::observer::{
        GetFlowsRequest, GetFlowsResponse, ServerStatusRequest, observer_client::ObserverClient,
    },
    request::{ObserveArgs, add_answers},
};
use tonic::{Response, Status, transport::Channel};

use super::{output::write_all, server::Server};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    about: Option<ask::Command>,
    #[command(flatten)]
    server: Server,
    /// Flows from this file instead of a server, as JSON lines of `-o json` or of an export; "-" is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "lab", "node", "server"])]
    input_file: Option<PathBuf>,
    /// Who talked to whom most, and what was dropped, instead of lines; of all flows unless others are selected
    #[arg(long)]
    summary: bool,
    /// Filters on one end (--to-pod, --from-ip, ...) match what is sent only, as in Hubble's command, and not the answers
    #[arg(long)]
    no_answers: bool,
    #[command(flatten)]
    observe: ObserveArgs,
}

/// # Errors
/// The flags contradict each other, or the server cannot be asked.
pub(crate) fn run(mut args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(command) = &args.about {
        return runtime.block_on(ask::run(command));
    }
    let select = &mut args.observe.select;
    let nothing_selected = select.first.is_none() && select.last.is_none() && select.since.is_none();
    let whole = args.summary || args.input_file.is_some();
    if whole && nothing_selected && select.until.is_none() && !select.follow {
        select.all = true;
    }
    let mut request = args.observe.request(now())?;
    if !args.no_answers {
        add_answers(&mut request.whitelist);
    }
    let colourful =
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let auto = if colourful { Colour::Always } else { Colour::Never };
    let view = View {
        printer: Printer::new(args.observe.format.options(auto)),
        tally: args.summary.then(Tally::default),
        coverage: Coverage::default(),
    };
    if let Some(path) = &args.input_file {
        read_file(path, &request, view)?;
        return Ok(ExitCode::SUCCESS);
    }
    runtime.block_on(async { observe(args.server.connect().await?.0, request, view).await })?;
    Ok(ExitCode::SUCCESS)
}

/// What becomes of answers.
struct View {
    printer: Printer,
    /// Instead of lines.
    tally: Option<Tally>,
    coverage: Coverage,
}

impl View {
    /// False: nobody reads any more.
    fn show(&mut self, answer: &GetFlowsResponse) -> anyhow::Result<bool> {
        self.coverage.add(answer);
        if let Some(tally) = &mut self.tally {
            tally.add(answer);
            return Ok(true);
        }
        let text = self.printer.print(answer)?;
        eprint!("{}", text.err);
        write_all(&text.out)
    }

    /// What was held back. False: nobody reads any more.
    fn finish(&mut self) -> anyhow::Result<bool> {
        write_all(&self.tally.as_ref().map_or_else(|| self.printer.finish(), Tally::render))
    }
}

/// Shows what was printed or exported before. A line that cannot be read is told of, and the others are shown.
fn read_file(path: &Path, request: &GetFlowsRequest, mut view: View) -> anyhow::Result<()> {
    let shown = path.display();
    let mut input = Input::new(request)?;
    let file: Box<dyn BufRead> = match path.to_str() {
        Some("-") => Box::new(io::stdin().lock()),
        _ => Box::new(BufReader::new(File::open(path).with_context(|| format!("open {shown}"))?)),
    };
    let (mut lines, mut unreadable) = (0_u64, 0_u64);
    for line in file.lines() {
        let line = line.with_context(|| format!("read {shown}"))?;
        lines += 1;
        match input.take(&line) {
            Ok(Some(answer)) => {
                if !view.show(&answer)? {
                    return Ok(());
                }
            }
            Ok(None) => {}
            Err(error) => {
                unreadable += 1;
                if unreadable == 1 {
                    eprintln!("{shown}: line {lines}: {:#}", anyhow::Error::from(error));
                }
            }
        }
    }
    for answer in input.finish() {
        if !view.show(&answer)? {
            return Ok(());
        }
    }
    view.finish()?;
    eprint!("{}", view.coverage.of_lines(lines, unreadable));
    Ok(())
}

async fn observe(channel: Channel, request: GetFlowsRequest, mut view: View) -> anyhow::Result<()> {
    let mut client = ObserverClient::new(channel);
    let mut answers = client.get_flows(request).await.map_err(refused)?.into_inner();
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let ended = loop {
        tokio::select! {
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    if !view.show(&answer)? {
                        return Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                Err(status) => break Err(refused(status)),
            },
            _ = &mut interrupted => break Ok(()),
        }
    };
    view.finish()?;
    let status = client.server_status(ServerStatusRequest {}).await.ok().map(Response::into_inner);
    eprint!("{}", view.coverage.line(status.as_ref()));
    ended
}

/// In the words of Hubble's command.
fn refused(status: Status) -> anyhow::Error {
    anyhow::anyhow!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
