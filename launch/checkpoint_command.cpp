#include "launch/checkpoint_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "launch/checkpoint_diff.h"
#include "launch/checkpoint_facts.h"
#include "launch/checkpoint_show.h"
#include "launch/terminal.h"
#include "launch/text.h"

namespace pf {
namespace {

std::string count_text(const Checkpoint& checkpoint, const std::string& name) {
  const auto found = checkpoint.facts().counts.find(name);
  return found == checkpoint.facts().counts.end() ? "?" : count_in_words(double(found->second));
}

// Its files are there in their sizes, and the master's bytes are right.
std::string list_line(const std::string& folder) {
  const std::string name = std::filesystem::path(folder).filename().string();
  try {
    const Checkpoint checkpoint(folder);
    return fmt::format("{:<18}{:>9}{:>9}{:>9}{:>12}  {:<18}{}\n", name, checkpoint.step(),
                       count_text(checkpoint, "samples"), count_text(checkpoint, "tokens"),
                       bytes_in_words(bytes_of(checkpoint)), time_of(checkpoint),
                       config_words(checkpoint).layout);
  } catch (const Error& error) {
    return fmt::format("{:<18}damaged: {}\n", name, error.what());
  }
}

int list(const std::string& path, int& failure) {
  const std::vector<std::string> folders = checkpoints_at(path);
  failure = 1;
  std::string text = fmt::format("{:<18}{:>9}{:>9}{:>9}{:>12}  {:<18}{}\n", "checkpoint", "step",
                                 "samples", "tokens", "size", "saved", "layout");
  for (const std::string& folder : folders) text += list_line(folder);
  print(text);
  return 0;
}

// Throws Error with what is wrong with the first file that is damaged.
void verify_all(const Checkpoint& checkpoint) {
  for (int part = 0; part < checkpoint.parts(); ++part) checkpoint.verify(part);
}

int show(const std::vector<std::string>& arguments, int& failure) {
  const std::string folder = checkpoint_at(arguments[0]);
  failure = 1;
  const Checkpoint checkpoint(folder);
  if (arguments.size() == 1) {
    print(contents_text(checkpoint));
    return 0;
  }
  verify_all(checkpoint);
  failure = 2;
  const std::string text = values_text(checkpoint, arguments[1]);
  failure = 1;
  print(text);
  return 0;
}

// A line, or one for each of its files that are damaged.
bool is_whole(const std::string& folder) {
  std::string wrong;
  const auto note = [&](const Error& error) {
    wrong += fmt::format("damaged: {}\n", error.what());
  };
  try {
    const Checkpoint checkpoint(folder);
    for (int part = 0; part < checkpoint.parts(); ++part) {
      try {
        checkpoint.verify(part);
      } catch (const Error& error) {
        note(error);
      }
    }
    if (wrong.empty())
      print(fmt::format("{}: whole, {} in {} part{}\n", folder,
                        bytes_in_words(bytes_of(checkpoint)), checkpoint.parts(),
                        checkpoint.parts() == 1 ? "" : "s"));
  } catch (const Error& error) {
    note(error);
  }
  if (!wrong.empty()) print(wrong);
  return wrong.empty();
}

int verify(const std::string& path, int& failure) {
  const std::vector<std::string> folders = checkpoints_at(path);
  failure = 1;
  std::size_t whole = 0;
  for (const std::string& folder : folders) whole += is_whole(folder) ? 1 : 0;
  return whole == folders.size() ? 0 : 1;
}

int diff(const std::vector<std::string>& arguments, bool weights_only, int& failure) {
  const std::string folder_a = checkpoint_at(arguments[0]);
  const std::string folder_b = checkpoint_at(arguments[1]);
  failure = 1;
  const Checkpoint a(folder_a), b(folder_b);
  verify_all(a);
  verify_all(b);
  const CheckpointDifference difference = difference_of(a, b, weights_only);
  print(fmt::format("A: {}\nB: {}\n{}", folder_a, folder_b, difference.text));
  return difference.is_equal ? 0 : 1;
}

}  // namespace

void CheckpointCommand::add_to(CLI::App& app) {
  app.add_option("ACTION", action);
  app.add_option("CHECKPOINT", arguments);
  app.add_flag("--weights", weights_only);
}

int CheckpointCommand::run(int& failure) const {
  const auto check = [&](std::size_t least, std::size_t most, const char* wanted) {
    require(arguments.size() >= least && arguments.size() <= most, "checkpoint ", action,
            ": found ", arguments.size(), " argument", arguments.size() == 1 ? "" : "s",
            ", wanted ", wanted, " (see pentafold --help)");
    require(!weights_only || action == "diff", "checkpoint ", action,
            ": --weights is an option of diff");
  };
  if (action == "list") {
    check(1, 1, "a RUN, like runs/quickstart");
    return list(arguments[0], failure);
  }
  if (action == "show") {
    check(1, 2, "a CHECKPOINT or RUN, and perhaps a TENSOR");
    return show(arguments, failure);
  }
  if (action == "verify") {
    check(1, 1, "a CHECKPOINT or RUN");
    return verify(arguments[0], failure);
  }
  require(action == "diff", "checkpoint: found '", printable(action),
          "', wanted list, show, verify or diff (see pentafold --help)");
  check(2, 2, "two CHECKPOINTS or RUNS");
  return diff(arguments, weights_only, failure);
}

}  // namespace pf
