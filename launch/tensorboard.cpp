#include "launch/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <system_error>

namespace pf {
namespace {

constexpr std::array<std::uint32_t, 256> make_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t remainder = byte;
    for (int bit = 0; bit < 8; ++bit)
      remainder = (remainder >> 1) ^ ((remainder & 1) != 0 ? 0x82F63B78u : 0u);
    table[byte] = remainder;
  }
  return table;
}

// Checksums of bytes that hold checksums themselves would be weak: the format rotates and shifts.
std::uint32_t masked(std::uint32_t crc) {
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

template <class T>
std::string little_endian(T value) {
  std::string bytes;
  for (std::size_t i = 0; i < sizeof value; ++i) bytes += char((value >> (8 * i)) & 0xFF);
  return bytes;
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

constexpr std::string_view prefix = "events.out.tfevents.";

// Of an event file's name; 0 if it is none.
std::int64_t seconds_in(const std::string& name) {
  std::int64_t seconds = 0;
  if (name.starts_with(prefix))
    std::from_chars(name.data() + prefix.size(), name.data() + name.size(), seconds);
  return seconds;
}

std::string file_name(const std::string& folder) {
  auto seconds = std::int64_t(seconds_now());
  std::error_code ignored;  // opening the file says it
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored))
    seconds = std::max(seconds, seconds_in(entry.path().filename().string()) + 1);
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0 || host[0] == '\0')
    host = {'h', 'o', 's', 't'};
  return fmt::format("{}/{}{}.{}.{}", folder, prefix, seconds, host.data(), getpid());
}

std::string record_of(const tensorboard::Event& event) {
  return tf_record(event.SerializeAsString());
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<std::uint32_t, 256> table = make_table();
  std::uint32_t crc = ~0u;
  for (const char byte : bytes) crc = (crc >> 8) ^ table[(crc ^ std::uint8_t(byte)) & 0xFF];
  return ~crc;
}

std::string tf_record(std::string_view bytes) {
  const std::string length = little_endian(std::uint64_t(bytes.size()));
  return length + little_endian(masked(crc32c(length))) + std::string(bytes) +
         little_endian(masked(crc32c(bytes)));
}

EventPoints::EventPoints(std::int64_t step) {
  event_.set_wall_time(seconds_now());
  event_.set_step(step);
}

void EventPoints::scalar(const std::string& tag, double value) {
  tensorboard::Value& point = *event_.mutable_summary()->add_value();
  point.set_tag(tag);
  point.set_simple_value(float(value));
}

void EventPoints::histogram(const std::string& tag, const std::vector<double>& weights) {
  tensorboard::Value& point = *event_.mutable_summary()->add_value();
  point.set_tag(tag);
  tensorboard::Histogram& all = *point.mutable_histo();
  all.set_min(0);
  all.set_max(double(weights.size()) - 1);
  double count = 0, sum = 0, squares = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto at = double(i);
    count += weights[i];
    sum += weights[i] * at;
    squares += weights[i] * at * at;
    all.add_bucket_limit(at + 0.5);
    all.add_bucket(weights[i]);
  }
  all.set_num(count);
  all.set_sum(sum);
  all.set_sum_squares(squares);
}

EventFile::EventFile(const std::string& folder) : file_(file_name(folder)) {}

std::string EventFile::append(const EventPoints& points) {
  std::string records;
  tensorboard::Event first;
  first.set_wall_time(points.event().wall_time());
  if (!has_begun_) {
    first.set_file_version("brain.Event:2");
    records += record_of(first);
  }
  if (!has_begun_ && dropped_from_) {
    first.set_step(*dropped_from_);
    first.mutable_session_log()->set_status(tensorboard::Session::start);
    records += record_of(first);
  }
  std::string why = file_.append(records + record_of(points.event()));
  has_begun_ = has_begun_ || why.empty();
  return why;
}

}  // namespace pf
