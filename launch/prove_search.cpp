#include "launch/prove_search.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <vector>

#include "core/error.h"
#include "launch/prove_case.h"
#include "launch/prove_layouts.h"
#include "launch/prove_random.h"
#include "launch/prove_shrink.h"
#include "launch/prove_stages.h"
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
             path, p.ranks(), p.tp(), p.cp(), p.ep(), p.etp()) +
         stages_as_overrides(p);
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

Difference rounding_beside(const Proof& proof, const config::Config& config) {
  return proof.error.empty() ? rounding_of(config, descend(on_one_rank(config))) : Difference();
}

// A case that fails by rounding alone stays as it is: smaller ones fail of other rounding.
config::Config smallest(const config::Config& config, const Proof& proof,
                        const Difference& rounding) {
  if (!proof.is_beyond(rounding)) return config;
  return shrink(config, [](const config::Config& c) {
    if (pending_signal() != 0) return false;
    const Proof of_smaller = prove(c);
    return !of_smaller.holds() && of_smaller.is_beyond(rounding_beside(of_smaller, c));
  });
}

void report(const Search& wanted, const Cases& cases, std::int64_t number, config::Config config,
            const Proof& proof) {
  show_progress(fmt::format("case {} differs; looking for a smaller one", number));
  config.mutable_run()->set_name(fmt::format("seed{}-case{}", wanted.seed, number));
  config.mutable_run()->set_folder("runs/" + config.run().name());
  const Difference rounding = rounding_beside(proof, config);
  const config::Config small = smallest(config, proof, rounding);
  const Proof of_small = prove(small);
  const std::string path = save(wanted, number, small, of_small);
  show_progress("");
  const std::string and_rounding =
      proof.error.empty() ? "\n  " + rounding_text(proof, rounding) : "";
  print(fmt::format(
      "case {} DIFFERS: {}{}\n  {}\n  again: {} --random 1 --seed {} --case {}\n  smaller: {}: "
      "{}\n    {}\n",
      number, proof.text(), and_rounding, cases.features(number), cases.command, wanted.seed,
      number, axes_text(small), of_small.text(), command_of(path, small)));
}

}  // namespace

Cases cases_of_any_model(std::uint64_t seed) {
  const auto cases = std::make_shared<RandomCases>(seed);
  return {"random cases", "pentafold prove",
          [cases](std::int64_t number) { return cases->of(number).config; },
          [cases](std::int64_t number) { return features_text(cases->of(number).levels); },
          [cases](std::int64_t first, std::int64_t count) {
            std::vector<RandomCase> all;
            for (std::int64_t i = 0; i < count; ++i) all.push_back(cases->of(first + i));
            return fmt::format("{} of {} pairs of features met", cases->pairs_in(all),
                               cases->legal_pairs());
          }};
}

int search(const Search& wanted, const Cases& cases) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  std::int64_t done = 0, failed = 0;
  Difference worst;
  for (; (wanted.count == 0 || done < wanted.count) && pending_signal() == 0; ++done) {
    const std::int64_t number = wanted.first + done;
    const config::Config one = cases.of(number);
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    show_progress(
        fmt::format("case {}{}, {} failed, {}  {}", number,
                    wanted.count == 0 ? "" : fmt::format(" ({} of {})", done + 1, wanted.count),
                    failed, duration_in_words(seconds), axes_text(one)));
    const Proof proof = prove(one);
    if (!proof.holds()) {
      report(wanted, cases, number, one, proof);
      ++failed;
    } else {
      worst.add(proof.worst.distance, fmt::format("{} of case {}", proof.worst.where, number));
    }
  }
  show_progress("");
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  std::string text = fmt::format("{} {} of seed {} from {} in {}: ", done, cases.name, wanted.seed,
                                 wanted.first, duration_in_words(seconds));
  text += failed > 0 ? fmt::format("{} DIFFER from one rank", failed)
          : done > 0 ? fmt::format("all are one rank within {:.0e}", proof_bound)
                     : "nothing was proven";
  if (!worst.where.empty())
    text += fmt::format(", the worst {}{:.1e} ({})", failed == 0 ? "" : "of the others ",
                        worst.distance, worst.where);
  if (wanted.count > 0) text += "; " + cases.seen(wanted.first, done);
  print(text + '\n');
  if (failed > 0) return 1;
  return wanted.count > 0 && done < wanted.count ? 128 + pending_signal() : 0;
}

}  // namespace pf
