#include "launch/sent_bytes.h"

#include <algorithm>

namespace pf {

std::vector<SentBytes> sent_bytes(const std::vector<Traffic>& traffic) {
  std::vector<SentBytes> all;
  for (const Traffic& of : traffic) {
    // The one kind of call that is of no axis brings a profile to rank 0.
    if (of.axes.empty()) continue;
    const auto found = std::ranges::find(all, of.axes, &SentBytes::axes);
    if (found == all.end())
      all.push_back({of.axes, of.bytes});
    else
      found->bytes += of.bytes;
  }
  return all;
}

std::vector<SentBytes> since(const std::vector<SentBytes>& before, std::vector<SentBytes> now) {
  for (std::size_t i = 0; i < before.size(); ++i) now[i].bytes -= before[i].bytes;
  std::erase_if(now, [](const SentBytes& sent) { return sent.bytes == 0; });
  return now;
}

}  // namespace pf
