// Event files, as the tensorboard program reads them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/append_file.h"
#include "launch/tensorboard.pb.h"

namespace pf {

// CRC-32C (Castagnoli), as in RFC 3720, section 12.1.
std::uint32_t crc32c(std::string_view bytes);

// One record of a TFRecord file: length, bytes, and a masked checksum of each, little-endian.
std::string tf_record(std::string_view bytes);

// The points of one step. What is not finite is kept: TensorBoard marks it.
class EventPoints {
 public:
  explicit EventPoints(std::int64_t step);

  void scalar(const std::string& tag, double value);
  // weights[i] at the value i.
  void histogram(const std::string& tag, const std::vector<double>& weights);

  const tensorboard::Event& event() const { return event_; }

 private:
  tensorboard::Event event_;  // of now
};

// FOLDER/events.out.tfevents.SECONDS.HOST.PROCESS; its SECONDS are after those of others in the
// folder, since readers go by the order of names.
class EventFile {
 public:
  explicit EventFile(const std::string& folder);  // throws Error naming the file

  // Of what other files in the folder have, points of `step` and later ones are not shown any more.
  // To be called before anything is written.
  void drop_from(std::int64_t step) { dropped_from_ = step; }

  // "", or the system's reason why it isn't written.
  std::string append(const EventPoints& points);
  const std::string& path() const { return file_.path(); }

 private:
  AppendFile file_;
  bool has_begun_ = false;
  std::optional<std::int64_t> dropped_from_;
};

}  // namespace pf
