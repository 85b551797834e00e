#include "parallel/communicator.h"

#include <algorithm>
#include <sstream>

namespace pf {

std::string text(const Call& call) {
  std::ostringstream out;
  out << call.kind;
  if (!call.set.empty()) out << " on " << name(call.set);
  out << " of ";
  if (!call.tensor.empty()) out << call.tensor << ": ";
  out << name(call.type) << ' ' << call.shape;
  if (call.is_uneven) out << ", uneven";
  return out.str();
}

std::string text(const Place& place) {
  std::string out;
  const auto add = [&](const std::string& part) { out += (out.empty() ? "" : ", ") + part; };
  if (place.step >= 0) add("step " + std::to_string(place.step + 1));
  if (place.micro_batch >= 0) add("micro-batch " + std::to_string(place.micro_batch));
  if (!place.layer.empty()) add(place.layer);
  return out;
}

std::string text_of_giving_up(const std::string& waits, const Place& place, double seconds,
                              std::span<const int> missing) {
  std::ostringstream out;
  out << waits;
  if (const std::string where = text(place); !where.empty()) out << " at " << where;
  out << " for over " << seconds << " s; ";
  if (missing.empty()) out << "a rank has not fetched its part";
  for (std::size_t i = 0; i < missing.size(); ++i)
    out << (i == 0 ? "missing: rank " : ", ") << missing[i];
  return out.str();
}

std::uint64_t Journal::add(const Call& call, std::size_t bytes, std::span<const int> ranks) {
  Entry& entry = entries_[count_ % kept] = {call, place, false, {}};
  if (Trace::current() == nullptr) return count_++;
  std::string group;
  for (const int rank : ranks) group += (group.empty() ? "" : ", ") + std::to_string(rank);
  entry.flight.kind = Trace::Kind::flight;
  entry.flight.category = "collective";
  entry.flight.name = call.kind;
  if (!call.set.empty()) entry.flight.name += " on " + name(call.set);
  entry.flight.begin = Trace::now();
  entry.flight.bytes = std::int64_t(bytes);
  entry.flight.facts = {{"call", pf::text(call)}, {"ranks", group}};
  return count_++;
}

void Journal::end(std::uint64_t number) {
  if (number + kept < count_) return;
  Entry& entry = entries_[number % kept];
  entry.has_ended = true;
  if (Trace::current() == nullptr || entry.flight.begin == 0) return;
  entry.flight.end = Trace::now();
  Trace::current()->add(std::move(entry.flight));
}

std::string Journal::text() const {
  std::ostringstream out;
  for (std::uint64_t n = count_ > kept ? count_ - kept : 0; n < count_; ++n) {
    const Entry& entry = entries_[n % kept];
    const std::string where = pf::text(entry.place);
    out << "  #" << n << ' ' << pf::text(entry.call);
    if (!where.empty()) out << "; " << where;
    out << (entry.has_ended ? "\n" : "; waits\n");
  }
  return out.str();
}

void count(std::vector<Traffic>& traffic, const Call& call, std::size_t bytes) {
  const std::string set = name(call.set);
  auto found = std::ranges::find_if(
      traffic, [&](const Traffic& t) { return t.kind == call.kind && t.axes == set; });
  if (found == traffic.end()) found = traffic.insert(found, {call.kind, set, 0, 0});
  ++found->calls;
  found->bytes += std::int64_t(bytes);
}

}  // namespace pf
