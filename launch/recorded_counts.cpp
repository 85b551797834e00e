#include "launch/recorded_counts.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>

#include "core/error.h"

namespace pf {
namespace {

using Json = nlohmann::json;

// Events stand on lines of their own, with commas between.
class Reader {
 public:
  Reader(const std::string& path, std::int64_t ranks)
      : path_(path), steps_(std::size_t(ranks)), open_(std::size_t(ranks)) {}

  void read(const std::string& text) {
    ++line_;
    const bool has_counts = text.find(R"("cat":"counts")") != std::string::npos;
    const bool is_step = text.find(R"("cat":"step")") != std::string::npos;
    if (!has_counts && !is_step) return;
    const Json event = Json::parse(text.substr(0, text.rfind('}') + 1), nullptr, false);
    try {
      const auto rank = std::size_t(event.at("pid").get<std::int64_t>() - 1);
      require(rank < steps_.size(), "found rank ", rank, ", but parallel.ranks=", steps_.size());
      if (has_counts)
        open_[rank].push_back(numbers(event.at("args").at("counts").get<std::string>()));
      else  // a span is written when it ends
        steps_[rank].push_back({numbers(event.at("name").get<std::string>().substr(5)).at(0),
                                std::exchange(open_[rank], {})});
    } catch (const std::exception& error) {
      require(false, path_, ":", line_, ": no event of a profile: ", error.what());
    }
  }

  std::vector<std::vector<RecordedStep>> finish() && {
    for (std::size_t rank = 0; rank < steps_.size(); ++rank) {
      require(!steps_[rank].empty(), path_, ": no whole step of rank ", rank,
              "; wanted the trace.json of a run on ", steps_.size(),
              " ranks with --profile, of fewer steps if it was too long");
      require(
          std::ranges::equal(steps_[rank], steps_[0], {}, &RecordedStep::step, &RecordedStep::step),
          path_, ": rank ", rank, " has other steps than rank 0");
    }
    return std::move(steps_);
  }

 private:
  static std::vector<std::int64_t> numbers(const std::string& text) {
    std::istringstream words(text);
    std::vector<std::int64_t> found;
    for (std::int64_t number = 0; words >> number;) found.push_back(number);
    require(words.eof() && !found.empty(), "found '", text, "', wanted whole numbers");
    return found;
  }

  std::string path_;
  std::int64_t line_ = 0;
  std::vector<std::vector<RecordedStep>> steps_;
  std::vector<std::vector<std::vector<std::int64_t>>> open_;  // of steps that have not ended
};

}  // namespace

std::vector<std::vector<RecordedStep>> recorded_counts(const std::string& path,
                                                       std::int64_t ranks) {
  std::ifstream file(path, std::ios::binary);
  require(file.is_open(), path, ": can't be read: ", std::generic_category().message(errno));
  Reader reader(path, ranks);
  for (std::string line; std::getline(file, line);) reader.read(line);
  return std::move(reader).finish();
}

}  // namespace pf
