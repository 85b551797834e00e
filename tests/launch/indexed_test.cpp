#include "launch/indexed.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/error.h"
#include "tests/launch/index_files.h"

namespace pf {
namespace {

// Three sequences of 2, 0 and 3 tokens; the first document has the first two.
template <class T>
void write_small(const TemporaryFolder& here, std::uint8_t type) {
  std::string index("MMIDIDX\0\0", 9), bin;
  put<std::uint64_t>(index, 1);
  put(index, type);
  put<std::uint64_t>(index, 3);
  put<std::uint64_t>(index, 3);
  for (const std::int32_t length : {2, 0, 3}) put(index, length);
  for (const std::int64_t token : {0, 2, 2})
    put<std::int64_t>(index, token * std::int64_t(sizeof(T)));
  for (const std::int64_t bound : {0, 2, 3}) put(index, bound);
  for (const int id : {7, 100, 3, 4, 5}) put(bin, T(id));
  here.write("a.idx", index);
  here.write("a.bin", bin);
}

std::string message(const TemporaryFolder& here) {
  try {
    const IndexedTokens tokens(here.path("a"));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

template <class T>
void expect_small(std::uint8_t type) {
  const TemporaryFolder here;
  write_small<T>(here, type);
  const IndexedTokens tokens(here.path("a"));
  std::vector<std::int64_t> ids(4);
  tokens.read(1, ids);
  EXPECT_EQ(ids, (std::vector<std::int64_t>{100, 3, 4, 5}));
  EXPECT_EQ(tokens.documents(), 2u);
  EXPECT_EQ(tokens.begin_of(1), 2u);
  EXPECT_EQ(tokens.document_of(1), 0u);
  EXPECT_EQ(tokens.document_of(2), 1u);
}

TEST(Indexed, EveryWidthIsRead) {
  expect_small<std::uint8_t>(1);
  expect_small<std::int8_t>(2);
  expect_small<std::int16_t>(3);
  expect_small<std::int32_t>(4);
  expect_small<std::int64_t>(5);
  expect_small<std::uint16_t>(8);
}

TEST(Indexed, EveryWrongFieldIsNamedWithItsByte) {
  for (const std::size_t at : {0, 9, 17, 18, 26, 34, 46, 50, 70, 86}) {
    const TemporaryFolder here;
    write_small<std::uint16_t>(here, 8);
    std::string index = here.read("a.idx");
    index[at] = at == 17 ? 7 : 99;
    here.write("a.idx", index);
    EXPECT_NE(message(here), "") << at;
    EXPECT_NE(message(here).find(here.path("a.")), std::string::npos) << message(here);
  }
}

TEST(Indexed, ATruncatedFileIsAnErrorAtEveryByte) {
  const TemporaryFolder here;
  write_small<std::uint16_t>(here, 8);
  for (const char* name : {"a.idx", "a.bin"}) {
    const std::string whole = here.read(name);
    for (std::size_t size = 0; size < whole.size(); ++size) {
      here.write(name, whole.substr(0, size));
      EXPECT_NE(message(here).find("a."), std::string::npos) << name << ' ' << size;
    }
    here.write(name, whole);
  }
  EXPECT_EQ(message(here), "");
}

}  // namespace
}  // namespace pf
