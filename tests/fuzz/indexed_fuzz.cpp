// Any bytes as an index of tokens. The first two bytes of an input, little-endian, are the size of
// the .bin beside it.
#include <stdlib.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "launch/indexed.h"
#include "tests/fuzz/told.h"

namespace pf {
namespace {

class Folder {
 public:
  Folder() {
    const bool has_shm = std::filesystem::is_directory("/dev/shm");
    std::string pattern = has_shm ? "/dev/shm/fuzz-XXXXXX" : "/tmp/fuzz-XXXXXX";
    claim(mkdtemp(pattern.data()) != nullptr, "a temporary folder can be made", pattern);
    path_ = pattern;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string prefix() const { return path_ + "/a"; }

 private:
  std::string path_;
};

void write(const std::string& path, std::span<const std::uint8_t> bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  file.close();
  claim(file.good(), "a temporary file can be written", path);
}

template <class Action>
void expect_error(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return check_message(error.what());
  }
  claim(false, "what is not there is an error");
}

// Documents are whole, in order and without gaps; each token belongs to the one it lies in.
void check_documents(const IndexedTokens& tokens) {
  const std::uint64_t documents = tokens.documents();
  claim(tokens.begin_of(0) == 0 && tokens.begin_of(documents) == tokens.tokens(),
        "documents have all tokens");
  for (std::uint64_t d = 0; d < documents; ++d) {
    const std::uint64_t begin = tokens.begin_of(d), end = tokens.begin_of(d + 1);
    claim(begin <= end, "documents are in order");
    if (begin == end) continue;
    claim(tokens.document_of(begin) == d && tokens.document_of(end - 1) == d,
          "a token's document is found");
  }
  expect_error([&] { tokens.begin_of(documents + 1); });
  expect_error([&] { tokens.document_of(tokens.tokens()); });
}

void check_reads(const IndexedTokens& tokens) {
  std::vector<std::int64_t> all(tokens.tokens()), one(1);
  tokens.read(0, all);
  for (std::uint64_t i = 0; i < all.size(); i += 1 + all.size() / 16) {
    tokens.read(i, one);
    claim(one[0] == all[i], "a token is the same alone");
  }
  tokens.read(tokens.tokens(), {});
  expect_error([&] { tokens.read(tokens.tokens(), one); });
  expect_error([&] { tokens.read(~std::uint64_t{0}, one); });
}

void try_index(std::span<const std::uint8_t> bytes) {
  static const Folder folder;
  if (bytes.size() < 2) return;
  std::vector<std::uint8_t> bin(std::size_t{bytes[0]} + 256 * std::size_t{bytes[1]});
  for (std::size_t i = 0; i < bin.size(); ++i) bin[i] = static_cast<std::uint8_t>(i * 37);
  write(folder.prefix() + ".idx", bytes.subspan(2));
  write(folder.prefix() + ".bin", bin);
  std::optional<IndexedTokens> tokens;
  try {
    tokens.emplace(folder.prefix());
  } catch (const Error& error) {
    return check_message(error.what());
  }
  check_documents(*tokens);
  check_reads(*tokens);
}

}  // namespace
}  // namespace pf

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  pf::try_index({data, size});
  return 0;
}
