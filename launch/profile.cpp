#include "launch/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <system_error>
#include <vector>

#include "core/error.h"
#include "launch/text.h"
#include "parallel/texts.h"

namespace pf {
namespace {

std::string facts_of(const Trace::Event& event) {
  std::string facts;
  if (event.bytes >= 0) facts = fmt::format(R"("bytes":{})", event.bytes);
  for (const auto& [key, value] : event.facts)
    facts += fmt::format("{}{}:{}", facts.empty() ? "" : ",", json_string(key), json_string(value));
  return facts;
}

// Process 0 means idle to viewers, so rank r is process r + 1.
std::string object_of(const Trace::Event& event, int rank, std::size_t number, std::int64_t begin) {
  const auto microseconds = [](std::int64_t ns) { return double(ns) / 1000; };
  const std::string common =
      fmt::format(R"({{"pid":{},"tid":1,"ts":{:.3f},"name":{})", rank + 1,
                  microseconds(event.begin - begin), json_string(event.name));
  switch (event.kind) {
    case Trace::Kind::counter:
      return common + fmt::format(R"(,"ph":"C","args":{{"bytes":{}}}}})", event.bytes);
    case Trace::Kind::flight: {
      const std::string id =
          fmt::format(R"(,"cat":"{}","id":"{}.{}")", event.category, rank, number);
      return common + id + R"(,"ph":"b","args":{)" + facts_of(event) + "}},\n" +
             fmt::format(R"({{"pid":{},"tid":1,"ts":{:.3f},"name":{})", rank + 1,
                         microseconds(event.end - begin), json_string(event.name)) +
             id + R"(,"ph":"e"})";
    }
    case Trace::Kind::span:
      break;
  }
  return common +
         fmt::format(R"(,"cat":"{}","ph":"X","dur":{:.3f},"args":{{)", event.category,
                     microseconds(event.end - event.begin)) +
         facts_of(event) + "}}";
}

}  // namespace

ProfiledSteps profiled_steps(const std::string& text, std::int64_t steps, std::int64_t before) {
  if (text == "auto")
    return {std::max<std::int64_t>(before + 1, std::min<std::int64_t>(before + 3, steps - 2)),
            std::min<std::int64_t>(before + 5, steps)};
  ProfiledSteps found;
  const char *at = text.data(), *end = at + text.size();
  auto number = std::from_chars(at, end, found.first);
  found.last = found.first;
  if (number.ec == std::errc() && number.ptr != end && *number.ptr == '-')
    number = std::from_chars(number.ptr + 1, end, found.last);
  require(number.ec == std::errc() && number.ptr == end, "--profile=", text,
          ": wanted a step or a range of them, as in --profile=3-5");
  require(found.first > before && found.first <= found.last && found.last <= steps,
          "--profile=", text, ": wanted steps from ", before + 1, " to train.steps=", steps,
          ", the first one first");
  return found;
}

std::string trace_events(int rank, const Trace& trace, std::int64_t begin) {
  std::string out = fmt::format(
      R"({{"pid":{0},"name":"process_name","ph":"M","args":{{"name":"rank {1}"}}}},
{{"pid":{0},"name":"process_sort_index","ph":"M","args":{{"sort_index":{1}}}}},
{{"pid":{0},"tid":1,"name":"thread_name","ph":"M","args":{{"name":"work"}}}})",
      rank + 1, rank);
  for (std::size_t i = 0; i < trace.events().size(); ++i)
    out += ",\n" + object_of(trace.events()[i], rank, i, begin);
  return out;
}

std::string write_trace(Communicator& communicator, const std::string& folder, const Trace& trace,
                        std::int64_t begin) {
  const std::vector<std::string> all =
      gather_texts(communicator, "trace", trace_events(communicator.rank(), trace, begin));
  if (all.empty()) return {};
  const std::string path = folder + "/trace.json";
  errno = 0;
  std::ofstream file(path, std::ios::binary);
  file << R"({"displayTimeUnit":"ms","traceEvents":[)" << '\n';
  for (std::size_t r = 0; r < all.size(); ++r)
    file << all[r] << (r + 1 < all.size() ? ",\n" : "\n");
  file << "]}\n";
  file.close();
  if (!file.good())
    return path + ": can't be written: " + std::generic_category().message(errno) +
           "; training goes on";
  std::string line = "profile: " + path + ", for https://ui.perfetto.dev";
  if (trace.dropped() > 0)
    line += fmt::format(" (too long: {} later events of rank 0 are missing)", trace.dropped());
  return line;
}

}  // namespace pf
