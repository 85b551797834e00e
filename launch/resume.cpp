#include "launch/resume.h"

#include <algorithm>

#include "core/error.h"
#include "parallel/texts.h"

namespace pf {
namespace {

// Why it can't be gone on from, as far as this rank can tell.
std::string verify(const std::string& folder, const Communicator& communicator,
                   CheckpointFacts& facts) {
  try {
    const Checkpoint checkpoint(folder);
    for (int part = communicator.rank(); part < checkpoint.parts(); part += communicator.size())
      checkpoint.verify(part);
    facts = checkpoint.facts();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace

ChosenCheckpoint choose_checkpoint(Communicator& communicator,
                                   const std::vector<std::string>& candidates) {
  constexpr const char* kind = "resume";
  ChosenCheckpoint out;
  for (std::size_t i = 0;; ++i) {
    const std::string folder =
        share_text(communicator, kind, i < candidates.size() ? candidates[i] : "");
    if (folder.empty()) break;
    const std::vector<std::string> failures =
        gather_texts(communicator, kind, verify(folder, communicator, out.facts));
    const auto failure =
        std::ranges::find_if(failures, [](const std::string& text) { return !text.empty(); });
    const std::string verdict =
        share_text(communicator, kind, failure == failures.end() ? "" : *failure);
    if (verdict.empty()) {
      out.folder = folder;
      return out;
    }
    out.refused.push_back(verdict);
  }
  if (out.refused.empty()) return out;
  std::string all;
  for (const std::string& text : out.refused) all += "\n  " + text;
  require(false, "no checkpoint is whole; run.resume=never begins anew, in a new folder:", all);
  return out;
}

}  // namespace pf
