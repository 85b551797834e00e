// The program: `pentafold COMMAND ...`.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/backend.h"
#include "core/cpu/processor.h"
#include "core/error.h"
#include "launch/check_command.h"
#include "launch/checkpoint_command.h"
#include "launch/config.h"
#include "launch/config_docs.h"
#include "launch/config_keys.h"
#include "launch/data_command.h"
#include "launch/file_arguments.h"
#include "launch/layout_command.h"
#include "launch/plot.h"
#include "launch/prove_command.h"
#include "launch/schedule_command.h"
#include "launch/terminal.h"
#include "launch/train.h"
#include "launch/version.h"
#include "models/presets.h"
#include "models/transformer.h"

namespace {

enum ExitCode : int { done = 0, failed = 1, wrong_usage = 2 };

constexpr const char* help =
    R"(Pentafold trains large language models, mixture-of-experts ones above all.

  pentafold train FILE [KEY=VALUE ...] [--ranks N] [--threads N] [--profile[=STEPS]]
      Trains what the YAML file says. Metrics, checkpoints and the whole configuration go to
      runs/NAME. A run whose folder has checkpoints goes on from the newest whole one, with any
      layout; of others, and with run.resume=never, the folder is moved to runs/NAME.1, .2 and so
      on. --profile writes what each rank does in STEPS (default 3-5) to runs/NAME/trace.json, for
      ui.perfetto.dev.
  pentafold config FILE [KEY=VALUE ...] [--ranks N] [--threads N]
      Prints the whole configuration: each key with the value that train would use.
  pentafold layout FILE [KEY=VALUE ...] [--ranks N]
      Prints which rank does what: its place on each axis and its experts, and the groups of each
      axis with those that leave a node (cluster.ranks_per_node).
  pentafold check FILE [KEY=VALUE ...] [--ranks N] [--counts TRACE.json] [--json]
      Runs one training step of any number of ranks without their memory: bytes and FLOPs of each
      stage, what travels on which axes and leaves a node (cluster.ranks_per_node), and the largest
      micro-batch that fits cluster.memory (docs/check.md). Data are not opened. Experts get equal
      shares of the tokens, or --counts: what they got in a profiled run.
  pentafold prove FILE [KEY=VALUE ...] --ranks N [--precision f32|bf16]
      Proves that each layout of N ranks (pp, tp, cp, ep, etp; those that an override gives stay)
      computes what one rank does: losses, gradients and weights of three steps in f64, on random
      tokens, to 1e-10; then steps of AdamW and Muon on equal gradients. Of a large model the one
      layout that training would have is proven, with small sizes that it cuts alike
      (docs/proofs.md). --precision: a table of distances.
  pentafold prove [FILE [KEY=VALUE ...]] --random COUNT|--forever [--seed N] [--case N]
                  [--output FOLDER]
      The same for random layouts, of random models or of the file's; what differs is made small and
      goes to FOLDER (default unproven).
  pentafold schedule --stages P --micro-batches M [--kind gpipe|1f1b|interleaved|zbh1|zbv]
      [--chunks V] [--forward F] [--input I] [--weight W] [--output FILE.svg|FILE.png]
      Draws what each rank of a pipeline does and when; without --kind compares all kinds. F, I
      and W: times of forward, input and weight gradients of a rank's layers (default 1 each).
  pentafold schedule --measured RUN [--output FILE.svg|FILE.png]
      The same of a run that was profiled, beside what its work would take without waits.
  pentafold config --docs
      Prints what each key means, its type, default and range (Markdown).
  pentafold presets
      Lists the published architectures that model.preset knows, with their sizes.
  pentafold data INPUT ... --output PREFIX [--tokenizer bytes] [--threads N] [--force]
      Turns texts, .jsonl files and folders of both into PREFIX.bin and PREFIX.idx, the indexed
      tokens of Megatron-LM, and describes them in PREFIX.json. A line of .jsonl is an object with
      "text", or with "prompt" and "answer": then PREFIX.mask says that the prompt's tokens are no
      targets. --threads: default one a processor; --force replaces files that are there.
  pentafold checkpoint list|verify RUN
  pentafold checkpoint show CHECKPOINT [TENSOR]
  pentafold checkpoint diff A B [--weights]
      Looks at what training saved (docs/checkpoints.md). list: a line for each checkpoint of a run,
      oldest first. verify: reads all bytes. show: facts and tensors, or numbers about the values of
      those that TENSOR names (part of a name, or *, ?). diff: facts, keys and tensors that differ;
      --weights: no other tensors. A run's folder stands for its newest checkpoint.
  pentafold plot RUN ... [--output FILE.svg|FILE.png] [--smooth] [--log]
      Draws loss, held-out bits per byte, throughput and expert load of one or several runs
      (default: RUN/plot.svg, of several ./plot.svg); --log: of the loss.
  pentafold --help, --version

With --mpi N, launch/pentafold trains with N processes under mpirun; under mpirun and
srun --mpi=pmix each process is a rank, and --ranks is refused (docs/clusters.md).

KEY=VALUE changes a key of the file for this call (train.steps=100, data.sources[0].path=a.txt);
the last one wins. --ranks is parallel.ranks, --threads is parallel.threads (of each rank).

Examples:
  pentafold train configs/quickstart.yaml
  pentafold train configs/quickstart.yaml --ranks 4 train.steps=100 optimizer.lr=1e-3
  pentafold config configs/quickstart.yaml model.layers=8 > deeper.yaml
  pentafold layout configs/quickstart.yaml --ranks 16 parallel.tp=2 parallel.ep=8
  pentafold check configs/mixtral_8x22b.yaml --ranks 1024 parallel.tp=2 parallel.ep=8 parallel.pp=8
  pentafold schedule --kind 1f1b --stages 4 --micro-batches 12
  pentafold prove configs/prove/moe.yaml --ranks 8
  pentafold prove configs/mixtral_8x22b.yaml --ranks 128 parallel.tp=2 parallel.ep=8 parallel.pp=8
  pentafold data notes.txt questions.jsonl books/ --output data/mine
  pentafold config configs/quickstart.yaml "model={preset: qwen3-30b-a3b, layers: 4}"
  pentafold checkpoint show runs/quickstart router

SIGINT (Ctrl-C), SIGTERM and SIGUSR1 end training after the current step and a checkpoint, random
proofs after the current case, and data without writing anything; a second SIGINT ends it at once.

Exit codes: 0 done; 1 failed, a checked job does not fit, checkpoints are damaged or differ; 2 wrong
usage, configuration or input; 75 ended by train.time_limit, with a checkpoint: start it again to go
on; 130 (SIGINT), 138 (SIGUSR1) or 143 (SIGTERM) ended by a signal, training with a checkpoint.

Environment: PENTAFOLD_DEBUG=1 adds to an error the place in the source that noticed it;
NO_COLOR=1 turns colours off; PENTAFOLD_CPU=sse2, avx2 or avx512 is the highest level of the
processor that is used.
)";

struct Command {
  pf::FileArguments given;
  bool wants_docs = false;

  void add_to(CLI::App& app) {
    given.add_to(app);
    given.add_threads_to(app);
  }

  // `mpi_ranks`: those of MPI's world, which decides; 0 without it.
  pf::config::Config load(int mpi_ranks, const pf::LoadOptions& options) const {
    pf::require(mpi_ranks == 0 || given.ranks.empty(), "--ranks ", given.ranks, ": MPI has ",
                mpi_ranks, " ranks already; leave --ranks out, or change the launcher's number");
    std::vector<std::string> all = given.changes();
    if (mpi_ranks > 0) all.push_back("parallel.ranks=" + std::to_string(mpi_ranks));
    return pf::load_config(given.file, all, options);
  }
};

struct Plot {
  std::vector<std::string> runs;
  std::string output;
  pf::PlotOptions options;

  void add_to(CLI::App& app) {
    app.add_option("RUN", runs);
    app.add_option("--output", output);
    app.add_flag("--smooth", options.is_smooth);
    app.add_flag("--log", options.is_log);
  }
};

// Runs of one name are told apart by their paths.
int plot(Plot plot, int& failure) {
  pf::require(!plot.runs.empty(),
              "name the RUN to plot, like runs/quickstart (see pentafold --help)");
  if (plot.output.empty()) {
    const bool is_in_run = plot.runs.size() == 1 && std::filesystem::is_directory(plot.runs[0]);
    plot.output =
        is_in_run ? (std::filesystem::path(plot.runs[0]) / "plot.svg").string() : "plot.svg";
  }
  pf::check_picture_name(plot.output);
  std::vector<pf::RunMetrics> runs;
  std::set<std::string> names;
  for (const std::string& path : plot.runs) {
    runs.push_back(pf::read_metrics(path));
    names.insert(runs.back().name);
  }
  std::string title;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (names.size() < runs.size()) runs[i].name = plot.runs[i];
    if (runs.size() <= 4) title += (i == 0 ? "" : ", ") + runs[i].name;
  }
  if (title.empty()) title = std::to_string(runs.size()) + " runs";
  failure = failed;
  pf::write_picture(plot.output, pf::svg_of(title, pf::panels_of(runs, plot.options)));
  pf::print(plot.output + '\n');
  return done;
}

std::string version_text() {
  return std::string("pentafold ") + pf::version +
         "\nCPU: " + pf::processor_features(pf::usable_isas().back()) +
         "\nCUDA: " + pf::cuda_description() + '\n';
}

std::string presets_text() {
  std::string text;
  for (const pf::Preset& preset : pf::presets()) {
    const pf::ModelSize size = pf::model_size(preset.model, 1);
    std::array<char, 160> line{};
    std::snprintf(line.data(), line.size(), "%-20s %6.4gB parameters, %6.4gB active   %s\n",
                  preset.name.c_str(), double(size.parameters) / 1e9,
                  double(size.active_parameters) / 1e9, preset.source.c_str());
    text += line.data();
  }
  return text;
}

// What CLI11 refused, with the command or option that may have been meant.
std::string complaint(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<std::string> unknown = app.remaining(true);
  if (unknown.empty()) return error.what();
  const std::string& word = unknown.front();
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  std::vector<std::string> known;
  if (chosen.empty())
    for (const CLI::App* command : app.get_subcommands({})) known.push_back(command->get_name());
  for (const CLI::Option* option : (chosen.empty() ? app : *chosen[0]).get_options())
    if (option->nonpositional()) known.push_back("--" + option->get_lnames().at(0));

  std::string text = (word[0] == '-' ? "unknown option '" : "unknown command '") + word + "'";
  const auto distance = [&](const std::string& name) { return pf::edit_distance(word, name); };
  const auto nearest =
      std::min_element(known.begin(), known.end(),
                       [&](const auto& a, const auto& b) { return distance(a) < distance(b); });
  if (chosen.empty() && (word.ends_with(".yaml") || word.ends_with(".yml")))
    text += "; did you mean train " + word + "?";
  else if (distance(*nearest) <= 2)
    text += "; did you mean " + *nearest + "?";
  return text;
}

// `failure` is the exit code of an Error that comes out.
int run(int argc, char** argv, std::optional<pf::Mpi>& mpi, int& failure) {
  failure = wrong_usage;
  pf::usable_isas();  // throws if PENTAFOLD_CPU is wrong: before any work
  if (argc < 2) {
    std::fputs(help, stderr);
    return wrong_usage;
  }
  CLI::App app;
  Command command;
  app.require_subcommand(1);
  CLI::Option* wants_version = app.add_flag("--version");
  CLI::App* train = app.add_subcommand("train");
  CLI::App* config = app.add_subcommand("config");
  CLI::App* list = app.add_subcommand("presets");
  command.add_to(*train);
  std::string profile;
  train->add_flag("--profile{auto}", profile);
  command.add_to(*config);
  config->add_flag("--docs", command.wants_docs);
  CLI::App* layout = app.add_subcommand("layout");
  command.add_to(*layout);
  Plot pictures;
  CLI::App* plots = app.add_subcommand("plot");
  pictures.add_to(*plots);
  pf::DataCommand data;
  CLI::App* converts = app.add_subcommand("data");
  data.add_to(*converts);
  pf::CheckCommand check;
  CLI::App* checks = app.add_subcommand("check");
  check.add_to(*checks);
  pf::ScheduleCommand schedule;
  CLI::App* schedules = app.add_subcommand("schedule");
  schedule.add_to(*schedules);
  pf::CheckpointCommand checkpoint;
  CLI::App* checkpoints = app.add_subcommand("checkpoint");
  checkpoint.add_to(*checkpoints);
  pf::ProveCommand proof;
  CLI::App* proves = app.add_subcommand("prove");
  proof.add_to(*proves);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    failure = failed;
    pf::print(help);
    return done;
  } catch (const CLI::ParseError& error) {
    if (wants_version->count() > 0 && app.remaining_size(true) == 0) {
      failure = failed;
      pf::print(version_text());
      return done;
    }
    throw pf::Error(complaint(app, error) + " (see pentafold --help)");
  }
  if (config->parsed() && command.wants_docs) {
    failure = failed;
    pf::print(pf::config_reference());
    return done;
  }
  if (list->parsed()) {
    failure = failed;
    pf::print(presets_text());
    return done;
  }
  if (converts->parsed()) return data.run(failure);
  if (checks->parsed()) return check.run(failure);
  if (schedules->parsed()) return schedule.run(failure);
  if (checkpoints->parsed()) return checkpoint.run(failure);
  if (proves->parsed()) return proof.run(failure);
  if (plots->parsed()) return plot(std::move(pictures), failure);
  pf::require(!command.given.file.empty(), "name the FILE to ", train->parsed() ? "train" : "show",
              ", like configs/quickstart.yaml (see pentafold --help)");
  if (train->parsed() && pf::is_mpi_rank()) mpi.emplace();
  pf::TrainOptions options;
  const pf::config::Config resolved =
      command.load(mpi ? mpi->size() : 0, {&options.places, layout->parsed()});
  if (train->parsed()) {
    options.profile = profile;
    options.on_begin = [&failure] { failure = failed; };
    return pf::train(resolved, mpi ? &*mpi : nullptr, options);
  }
  failure = failed;
  pf::print(layout->parsed() ? pf::layout_text(resolved) : pf::to_yaml(resolved));
  return done;
}

// Else the first file that is opened would get the number of a closed standard stream, and its
// text.
void open_standard_streams() {
  int opened = 0;
  while (opened >= 0 && opened <= 2) opened = open("/dev/null", O_RDWR);
  if (opened > 2) close(opened);
}

// Of an error that all ranks have, only rank 0 speaks: it ends the others while they still wait.
void complain(const char* what) {
  const std::string text = "pentafold: " + pf::mpi_prefix() + what + '\n';
  pf::wait_for_first_rank();
  std::fputs(text.c_str(), stderr);
}

}  // namespace

int main(int argc, char** argv) {
  open_standard_streams();
  for (const int signal : {SIGPIPE, SIGXFSZ}) std::signal(signal, SIG_IGN);  // write() says it
  int failure = failed;
  // Outlives an error, so that the message comes before the end of the other ranks.
  std::optional<pf::Mpi> mpi;
  try {
    return run(argc, argv, mpi, failure);
  } catch (const pf::Error& error) {
    complain(error.what());
    if (std::getenv("PENTAFOLD_DEBUG") != nullptr && !error.where().empty())
      std::fprintf(stderr, "pentafold: at %s\n", error.where().c_str());
  } catch (const std::bad_alloc&) {
    complain("out of memory; fewer ranks or a smaller train.micro_batch need less");
    failure = failed;
  } catch (const std::exception& error) {
    complain(error.what());
    failure = failed;
  }
  pf::end_mpi(failure);
  return failure;
}
