#include "launch/tensorboard.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

template <class T>
T number_at(const std::string& bytes, std::size_t at) {
  T value{};
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// The records of a file, with the format's own checks.
std::vector<std::string> records_of(const std::string& file) {
  const auto unmasked = [](std::uint32_t masked) {
    const std::uint32_t rotated = masked - 0xa282ead8u;
    return (rotated >> 17) | (rotated << 15);
  };
  std::vector<std::string> records;
  for (std::size_t at = 0; at < file.size();) {
    const auto length = number_at<std::uint64_t>(file, at);
    EXPECT_EQ(unmasked(number_at<std::uint32_t>(file, at + 8)), crc32c(file.substr(at, 8)));
    records.push_back(file.substr(at + 12, length));
    EXPECT_EQ(unmasked(number_at<std::uint32_t>(file, at + 12 + length)), crc32c(records.back()));
    at += 16 + length;
  }
  return records;
}

// RFC 3720, appendix B.4, and the usual check value.
TEST(Tensorboard, TheChecksumIsCastagnolis) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string rising;
  for (char c = 0; c < 32; ++c) rising += c;
  EXPECT_EQ(crc32c(rising), 0x46dd794eu);
}

TEST(Tensorboard, ARecordIsFramed) {
  const std::string record = tf_record("abc");
  ASSERT_EQ(record.size(), 8u + 4 + 3 + 4);
  EXPECT_EQ(record.substr(0, 8), std::string("\3\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(record.substr(12, 3), "abc");
  EXPECT_EQ(records_of(record + tf_record("")), (std::vector<std::string>{"abc", ""}));
}

TEST(Tensorboard, AFileStartsWithItsVersionAndHoldsThePoints) {
  const TemporaryFolder here;
  EventFile file(here.path());
  EventPoints points(7);
  points.scalar("loss/train", 2.5);
  points.histogram("expert_share/layers.1", {0.25, 0, 0.75});
  EXPECT_EQ(file.append(points), "");

  const std::string name = std::filesystem::path(file.path()).filename();
  EXPECT_EQ(name.find("events.out.tfevents."), 0u) << name;
  const std::vector<std::string> records = records_of(here.read(name));
  ASSERT_EQ(records.size(), 2u);
  tensorboard::Event first, second;
  ASSERT_TRUE(first.ParseFromString(records[0]) && second.ParseFromString(records[1]));
  EXPECT_EQ(first.file_version(), "brain.Event:2");
  EXPECT_EQ(second.step(), 7);
  ASSERT_EQ(second.summary().value_size(), 2);
  EXPECT_EQ(second.summary().value(0).tag(), "loss/train");
  EXPECT_EQ(second.summary().value(0).simple_value(), 2.5f);
  const tensorboard::Histogram& shares = second.summary().value(1).histo();
  EXPECT_EQ(shares.num(), 1);
  EXPECT_EQ(shares.sum(), 1.5);
  EXPECT_EQ(shares.sum_squares(), 3);
  EXPECT_EQ(shares.max(), 2);
  ASSERT_EQ(shares.bucket_size(), 3);
  EXPECT_EQ(shares.bucket(2), 0.75);
  EXPECT_EQ(shares.bucket_limit(2), 2.5);
}

TEST(Tensorboard, AFileOfARunThatGoesOnSaysFromWhichStep) {
  const TemporaryFolder here;
  EventFile file(here.path());
  file.drop_from(51);
  EXPECT_EQ(file.append(EventPoints(51)), "");
  EXPECT_EQ(file.append(EventPoints(52)), "");
  const std::vector<std::string> records =
      records_of(here.read(std::filesystem::path(file.path()).filename()));
  ASSERT_EQ(records.size(), 4u);
  std::vector<tensorboard::Event> events(4);
  for (std::size_t i = 0; i < 4; ++i) ASSERT_TRUE(events[i].ParseFromString(records[i]));
  EXPECT_EQ(events[0].file_version(), "brain.Event:2");
  EXPECT_EQ(events[1].step(), 51);
  EXPECT_EQ(events[1].session_log().status(), tensorboard::Session::start);
  EXPECT_EQ(events[2].step(), 51);
  EXPECT_FALSE(events[2].has_session_log());
  EXPECT_EQ(events[3].step(), 52);
}

TEST(Tensorboard, ANewFileFollowsTheOthersByName) {
  const TemporaryFolder here;
  here.write("events.out.tfevents.99999999999.a.1", "");
  here.write("events.out.tfevents.x", "");
  const std::string first = EventFile(here.path()).path(), second = EventFile(here.path()).path();
  EXPECT_EQ(first.find(here.path("events.out.tfevents.100000000000.")), 0u) << first;
  EXPECT_EQ(second.find(here.path("events.out.tfevents.100000000001.")), 0u) << second;
}

// Field numbers are the format's: this is the event above as others write it.
TEST(Tensorboard, AnEventHasTheBytesOfTheFormat) {
  tensorboard::Event event;
  event.set_wall_time(1);
  event.set_step(2);
  tensorboard::Value& value = *event.mutable_summary()->add_value();
  value.set_tag("a");
  value.set_simple_value(1);
  EXPECT_EQ(event.SerializeAsString(),
            std::string("\x09\0\0\0\0\0\0\xf0\x3f\x10\x02\x2a\x0a\x0a\x08\x0a\x01"
                        "a\x15\0\0\x80\x3f",
                        23));
  tensorboard::Event start;
  start.set_step(2);
  start.mutable_session_log()->set_status(tensorboard::Session::start);
  EXPECT_EQ(start.SerializeAsString(), "\x10\x02\x3a\x02\x08\x01");
}

}  // namespace
}  // namespace pf
