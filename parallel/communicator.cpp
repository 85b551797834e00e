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

void count(std::vector<Traffic>& traffic, const Call& call, std::size_t bytes) {
  const std::string set = name(call.set);
  auto found = std::ranges::find_if(
      traffic, [&](const Traffic& t) { return t.kind == call.kind && t.axes == set; });
  if (found == traffic.end()) found = traffic.insert(found, {call.kind, set, 0, 0});
  ++found->calls;
  found->bytes += std::int64_t(bytes);
}

}  // namespace pf
