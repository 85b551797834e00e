#include "launch/run_metrics.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace pf {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;  // domains in the order of the file

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  require(file.is_open(), path, ": can't be opened");
  std::string text{std::istreambuf_iterator<char>(file), {}};
  require(!file.bad(), path, ": can't be read");
  return text;
}

// One line of the file, for errors.
struct Place {
  const std::string& file;
  std::size_t line;

  void wants(bool condition, const std::string& key, const char* wanted, const Json& found) const {
    constexpr auto replace = Json::error_handler_t::replace;
    require(condition, file, ':', line, ": ", key, ": found ",
            found.dump(-1, ' ', false, replace).substr(0, 60), ", wanted ", wanted);
  }

  // null stands for what was not finite.
  double number(const Json& object, const std::string& key) const {
    const Json value = object.value(key, Json());
    wants(value.is_number() || (value.is_null() && object.contains(key)), key, "a number or null",
          value);
    return value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
  }
};

Curve& curve(std::vector<Curve>& curves, const std::string& name) {
  const auto found =
      std::find_if(curves.begin(), curves.end(), [&](const Curve& c) { return c.name == name; });
  return found != curves.end() ? *found : curves.emplace_back(Curve{name, {}, {}});
}

std::vector<double> numbers(const Json& list, const Place& place) {
  place.wants(list.is_array(), "share", "a list of numbers", list);
  std::vector<double> out;
  for (const Json& x : list) {
    place.wants(x.is_number() || x.is_null(), "share", "numbers", x);
    out.push_back(x.is_number() ? x.get<double>() : std::numeric_limits<double>::quiet_NaN());
  }
  return out;
}

// Each pair of domains stands there once.
std::vector<std::vector<double>> overlaps(const Json& pairs,
                                          const std::vector<std::string>& domains,
                                          const Place& place) {
  std::vector<std::vector<double>> out(domains.size(), std::vector<double>(domains.size(), 1));
  for (std::size_t d = 0; d < domains.size(); ++d)
    for (std::size_t o = d + 1; o < domains.size(); ++o) {
      const Json with = pairs.value(domains[d], Json());
      place.wants(with.is_object(), "overlap", "a map of maps of domains", pairs);
      out[d][o] = out[o][d] = place.number(with, domains[o]);
    }
  return out;
}

// The experts of an evaluation.
void add_experts(RunMetrics& run, double step, const Json& layers, const Place& place) {
  place.wants(layers.is_array(), "experts", "a list of layers", layers);
  if (layers.empty()) return;
  run.domains.clear();
  run.experts.clear();
  std::map<std::string, double> largest, score;
  for (const Json& layer : layers) {
    const auto part = [&](const char* key) {
      Json found = layer.is_object() ? layer.value(key, Json()) : Json();
      place.wants(found.is_object(), "experts", "a layer with its domains and their overlap",
                  layer);
      return found;
    };
    const Json domains = part("domains"), pairs = part("overlap");
    place.wants(layer.value("layer", Json()).is_string(), "experts", "a layer's name", layer);
    LayerShares& shares = run.experts.emplace_back(LayerShares{layer["layer"], {}, {}});
    std::vector<std::string> names;
    for (const auto& [domain, use] : domains.items()) {
      place.wants(use.is_object(), domain, "what the domain chose", use);
      names.push_back(domain);
      shares.share.push_back(numbers(use.value("share", Json()), place));
      place.wants(shares.share.back().size() == run.experts[0].share[0].size(), "share",
                  "as many experts as in the first layer", use);
      largest[domain] += place.number(use, "largest") / double(layers.size());
      score[domain] += place.number(use, "score") / double(layers.size());
    }
    if (run.domains.empty()) run.domains = names;
    place.wants(names == run.domains && !names.empty(), "experts", "the same domains in each layer",
                domains);
    shares.overlap = overlaps(pairs, names, place);
  }
  for (const std::string& domain : run.domains) {
    curve(run.largest, domain).add(step, largest[domain]);
    curve(run.score, domain).add(step, score[domain]);
  }
}

void add(RunMetrics& run, const Json& entry, const Place& place) {
  const double step = place.number(entry, "step");
  if (entry.contains("heldout")) {
    for (const auto& [key, unit] :
         {std::pair("heldout", ""), {"heldout_per_token", " (per token)"}}) {
      const Json domains = entry.value(key, Json::object());
      place.wants(domains.is_object(), key, "a map of domains", domains);
      for (const auto& [domain, bits] : domains.items())
        curve(run.heldout, domain + unit).add(step, place.number(domains, domain));
    }
    add_experts(run, step, entry.value("experts", Json::array()), place);
    return;
  }
  run.loss.add(step, place.number(entry, "loss"));
  run.tokens_per_s.add(step, place.number(entry, "tokens_per_s"));
  const Json layers = entry.value("experts", Json::array());
  place.wants(layers.is_array(), "experts", "a list of layers", layers);
  for (const Json& layer : layers) {
    place.wants(layer.is_object() && layer.value("layer", Json()).is_string(), "experts",
                "a layer's name and load", layer);
    curve(run.max_mean, layer["layer"]).add(step, place.number(layer, "max_mean"));
  }
}

}  // namespace

RunMetrics read_metrics(const std::string& run) {
  require(fs::exists(run), run,
          ": there is no such run; wanted the folder of one, like runs/quickstart");
  const std::string path = fs::is_directory(run) ? (fs::path(run) / "metrics.jsonl").string() : run;
  require(fs::exists(path), run, ": has no metrics.jsonl; wanted the folder of a run");
  const std::string text = read_text(path);
  RunMetrics metrics;
  fs::path folder = fs::absolute(path).lexically_normal().parent_path();
  metrics.name = folder.filename().string();
  std::size_t line = 1;
  for (std::size_t begin = 0, end = 0; (end = text.find('\n', begin)) != std::string::npos;
       begin = end + 1, ++line) {
    const std::string_view bytes = std::string_view(text).substr(begin, end - begin);
    const Json entry = Json::parse(bytes, nullptr, false);
    require(entry.is_object(), path, ':', line, ": found '", bytes.substr(0, 60),
            "', wanted a JSON object");
    add(metrics, entry, {path, line});
  }
  return metrics;
}

}  // namespace pf
