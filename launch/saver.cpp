#include "launch/saver.h"

#include <fmt/format.h>

#include <filesystem>
#include <system_error>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/purpose.h"
#include "launch/staged_file.h"
#include "launch/text.h"
#include "models/metrics.h"
#include "parallel/checkpoint_format.h"
#include "parallel/texts.h"

namespace pf {
namespace {

namespace fs = std::filesystem;

constexpr auto pause = std::chrono::milliseconds(2);

// An empty folder; what a killed run left there goes.
void make_empty(const std::string& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  if (!error) fs::create_directories(folder, error);
  require(!error, folder, ": can't be made: ", error.message());
}

// Renamed first: what is there by half has another name.
std::string remove_checkpoint(const std::string& folder) {
  std::error_code error;
  const std::string aside = folder + being_removed;
  fs::remove_all(aside, error);
  if (!error) fs::rename(folder, aside, error);
  if (!error) fs::remove_all(aside, error);
  return error ? folder + ": can't be removed: " + error.message() : std::string();
}

void publish(const std::string& folder) {
  std::error_code error;
  if (fs::exists(folder, error)) {
    const std::string why = remove_checkpoint(folder);
    require(why.empty(), why);
  }
  fs::rename(folder + being_written, folder, error);
  require(!error, folder, ": can't be put in its place: ", error.message());
  sync_folder_of(folder);
}

// All but the newest; what can't be removed.
std::string remove_old(const std::string& folder, std::int64_t keep) {
  std::string left;
  const std::vector<std::string> all = checkpoints_in(folder);
  for (std::size_t i = std::size_t(keep); i < all.size(); ++i)
    if (const std::string why = remove_checkpoint(all[i]); !why.empty()) left = why;
  return left;
}

}  // namespace

std::string checkpoints_folder(const config::Config& config) {
  return config.run().folder() + "/checkpoints";
}

Saver::Saver(const config::Config& config, const Mesh& mesh, Learner& learner,
             CheckpointWriter& writer, Reporter* reporter)
    : config_(config), mesh_(mesh), learner_(learner), writer_(writer), reporter_(reporter) {}

Saver::~Saver() {
  if (phase_ == Phase::idle) return;
  writer_.abandon();
  std::error_code error;
  if (is_first()) fs::remove_all(folder_ + being_written, error);
}

bool Saver::some_rank(bool mine) const {
  return largest_over_mesh(mesh_, {std::int64_t(mine)})[0] > 0;
}

void Saver::save(CheckpointFacts facts) {
  finish();
  begin_ = std::chrono::steady_clock::now();
  facts_ = std::move(facts);
  folder_ = checkpoints_folder(config_) + "/" + checkpoint_name(facts_.counts.at("step"));
  std::string failure;
  try {
    if (is_first()) make_empty(folder_ + being_written);
  } catch (const Error& error) {
    failure = error.what();
  }
  failure = share_text(mesh_.communicator(), "checkpoint", failure);
  if (!failure.empty()) return end(failure);
  const std::vector<StateTensor> state = learner_.state();
  bool has_copies = config_.checkpoint().async();
  std::vector<SavedPiece> pieces;
  try {
    const PurposeScope of_part("checkpoint");
    pieces = pieces_of(state, has_copies ? &copies_ : nullptr);
  } catch (const Error&) {  // no memory for copies: training waits
    if (!has_copies) throw;
    has_copies = false;
    copies_.clear();
    pieces = pieces_of(state);
  }
  writer_.write(folder_ + being_written, std::move(pieces));
  phase_ = Phase::parts;
  if (some_rank(!has_copies)) finish();
}

void Saver::poll() {
  if (phase_ == Phase::parts) {
    if (!some_rank(!writer_.is_done())) begin_master();
  } else if (phase_ == Phase::master) {
    if (some_rank(is_first() && !writer_.is_done())) return;
    end(share_text(mesh_.communicator(), "checkpoint", is_first() ? writer_.failure() : ""));
  }
}

void Saver::finish() {
  for (poll(); phase_ != Phase::idle; poll()) std::this_thread::sleep_for(pause);
}

// Every process has written its part, or failed to.
void Saver::begin_master() {
  Communicator& world = mesh_.communicator();
  const bool has_failed = some_rank(!writer_.failure().empty());
  std::string own;
  if (writer_.speaks_for(world.rank()))
    own = has_failed ? writer_.failure() : to_text(writer_.part());
  const std::vector<std::string> texts = gather_texts(world, "checkpoint", own);
  if (has_failed) {
    std::string first;
    for (const std::string& text : texts)
      if (first.empty()) first = text;
    return end(share_text(world, "checkpoint", first));
  }
  phase_ = Phase::master;
  if (!is_first()) return;
  std::vector<PartFile> parts;
  bytes_ = 0;
  for (const std::string& text : texts) {
    if (text.empty()) continue;
    parts.push_back(part_file_of(text));
    bytes_ += parts.back().bytes;
  }
  writer_.run([this, parts] {
    write_master(folder_ + being_written, facts_, parts);
    reporter_->sync();  // where that fails, metrics that the disk lost are missing
    publish(folder_);
    left_ = remove_old(checkpoints_folder(config_), config_.checkpoint().keep());
  });
}

void Saver::end(const std::string& failure) {
  phase_ = Phase::idle;
  failure_ = failure;
  const std::int64_t step = facts_.counts.at("step");
  seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  if (failure.empty()) saved_step_ = step;
  if (reporter_ == nullptr) return;
  if (failure.empty()) {
    reporter_->line(fmt::format("checkpoint of step {}: {} in {:.1f} s", step,
                                bytes_in_words(bytes_), seconds_));
    if (!left_.empty()) reporter_->line(left_);
    return;
  }
  std::error_code error;
  fs::remove_all(folder_ + being_written, error);
  reporter_->line(fmt::format("no checkpoint of step {}: {}", step, failure));
}

}  // namespace pf
