// Token files for tests, written byte by byte.
#pragma once

#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "tests/launch/temporary_folder.h"

namespace pf {

template <class T>
void put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// NAME.bin and NAME.idx as Megatron's tools write them: each document one sequence, of type T,
// whose code is `type`.
template <class T>
void write_index(const TemporaryFolder& here, const std::string& name, std::uint8_t type,
                 const std::vector<std::vector<int>>& documents) {
  std::string index("MMIDIDX\0\0", 9), bin;
  put<std::uint64_t>(index, 1);
  put(index, type);
  put<std::uint64_t>(index, documents.size());
  put<std::uint64_t>(index, documents.size() + 1);
  for (const auto& document : documents) put(index, std::int32_t(document.size()));
  for (const auto& document : documents) {
    put<std::int64_t>(index, std::int64_t(bin.size()));
    for (const int id : document) put(bin, T(id));
  }
  for (std::size_t d = 0; d <= documents.size(); ++d) put(index, std::int64_t(d));
  here.write(name + ".idx", index);
  here.write(name + ".bin", bin);
}

// Documents of 3 to 9 ids; all ids, in order, are 0, 1, 2, ... modulo `vocabulary`.
inline std::vector<std::vector<int>> counting_documents(int count, int vocabulary) {
  std::vector<std::vector<int>> documents;
  int next = 0;
  for (int d = 0; d < count; ++d) {
    documents.emplace_back();
    for (int i = 0; i < 3 + d * 5 % 7; ++i) documents.back().push_back(next++ % vocabulary);
  }
  return documents;
}

inline std::size_t tokens_in(const std::vector<std::vector<int>>& documents) {
  return std::accumulate(documents.begin(), documents.end(), std::size_t{0},
                         [](std::size_t sum, const auto& d) { return sum + d.size(); });
}

}  // namespace pf
