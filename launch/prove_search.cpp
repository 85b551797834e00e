#include "launch/prove_search.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <vector>

#include "core/error.h"
#include "launch/prove_case.h"
#include "launch/prove_layouts.h"
#include "launch/prove_random.h"
#include "launch/prove_shrink.h"
#include "launch/signals.h"
#include "launch/terminal.h"
#include "launch/text.h"

namespace pf {
namespace {

// What `text` is worth on a terminal, at its bottom.
void show_progress(const std::string& text) {
  if (!understands_escapes(stderr)) return;
  const std::string line =
      std::string(erase_line) + text.substr(0, std::size_t(columns_of(stderr) - 1));
  std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
}

std::string command_of(const std::string& path, const config::Config& config) {
  const config::Parallel& p = config.parallel();
  return fmt::format(
      "pentafold prove {} --ranks {} parallel.tp={} parallel.cp={} parallel.ep={} "
      "parallel.etp={}",
      path, p.ranks(), p.tp(), p.cp(), p.ep(), p.etp());
}

std::string save(const Search& wanted, std::int64_t number, const config::Config& config,
                 const Proof& proof) {
  std::error_code error;
  std::filesystem::create_directories(wanted.folder, error);
  std::string path = (std::filesystem::path(wanted.folder) /
                      fmt::format("seed{}-case{}.yaml", wanted.seed, number))
                         .string();
  std::ofstream file(path, std::ios::binary);
  file << "# " << printable(proof.text(), 1000) << "\n# " << command_of(path, config) << "\n"
       << to_yaml(config);
  file.close();
  require(file.good(), path, ": cannot write a case that failed");
  return path;
}

void report(const Search& wanted, std::int64_t number, const RandomCase& found,
            const Proof& proof) {
  show_progress(fmt::format("case {} differs; looking for a smaller one", number));
  config::Config config = found.config;
  config.mutable_run()->set_name(fmt::format("seed{}-case{}", wanted.seed, number));
  config.mutable_run()->set_folder("runs/" + config.run().name());
  const config::Config small = shrink(
      config, [](const config::Config& c) { return pending_signal() == 0 && !prove(c).holds(); });
  const Proof of_small = prove(small);
  const std::string path = save(wanted, number, small, of_small);
  show_progress("");
  print(
      fmt::format("case {} DIFFERS: {}\n  {}\n  again: pentafold prove --random 1 --seed {} "
                  "--case {}\n  smaller: {}: {}\n    {}\n",
                  number, proof.text(), features_text(found.levels), wanted.seed, number,
                  axes_text(small), of_small.text(), command_of(path, small)));
}

}  // namespace

int search(const Search& wanted) {
  using Clock = std::chrono::steady_clock;
  const SignalScope signals;
  const RandomCases cases{std::uint64_t(wanted.seed)};
  const auto begin = Clock::now();
  std::vector<RandomCase> proven;
  std::int64_t done = 0, failed = 0;
  Difference worst;
  for (; (wanted.count == 0 || done < wanted.count) && pending_signal() == 0; ++done) {
    const std::int64_t number = wanted.first + done;
    const RandomCase one = cases.of(number);
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    show_progress(
        fmt::format("case {}{}, {} failed, {}  {}", number,
                    wanted.count == 0 ? "" : fmt::format(" ({} of {})", done + 1, wanted.count),
                    failed, duration_in_words(seconds), axes_text(one.config)));
    const Proof proof = prove(one.config);
    if (!proof.holds()) {
      report(wanted, number, one, proof);
      ++failed;
    } else {
      worst.add(proof.worst.distance, fmt::format("{} of case {}", proof.worst.where, number));
    }
    if (wanted.count > 0) proven.push_back(one);
  }
  show_progress("");
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  std::string text = fmt::format("{} random cases of seed {} from {} in {}: ", done, wanted.seed,
                                 wanted.first, duration_in_words(seconds));
  text += failed == 0 ? fmt::format("all are one rank within {:.0e}", proof_bound)
                      : fmt::format("{} DIFFER from one rank", failed);
  if (!worst.where.empty())
    text += fmt::format(", the worst {}{:.1e} ({})", failed == 0 ? "" : "of the others ",
                        worst.distance, worst.where);
  if (wanted.count > 0)
    text += fmt::format("; {} of {} pairs of features met", cases.pairs_in(proven),
                        cases.legal_pairs());
  print(text + '\n');
  if (failed > 0) return 1;
  return wanted.count > 0 && done < wanted.count ? 128 + pending_signal() : 0;
}

}  // namespace pf
