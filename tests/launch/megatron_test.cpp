// The C++ half of megatron_check.py, which gives it a folder with files that Megatron-LM's own
// builder wrote, and reads those that it leaves there.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "launch/convert.h"
#include "launch/indexed.h"
#include "launch/token_files.h"
#include "tests/launch/doubling_tokenizer.h"

namespace pf {
namespace {

using Ids = std::vector<std::int64_t>;

class Megatron : public testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("PENTAFOLD_MEGATRON_FILES");
    if (folder == nullptr) GTEST_SKIP() << "megatron_check.py runs it";
    folder_ = std::string(folder) + '/';
  }

  std::string folder_;
};

// PREFIX.txt has the ids of a document a line.
TEST_F(Megatron, FilesOfItsBuilderAreRead) {
  for (const char* name : {"theirs_u16", "theirs_i32"}) {
    const IndexedTokens tokens(folder_ + name);
    EXPECT_EQ(read_token_description(folder_ + name), std::nullopt);
    std::ifstream wanted(folder_ + name + ".txt");
    std::uint64_t document = 0;
    for (std::string line; std::getline(wanted, line); ++document) {
      std::istringstream numbers(line);
      Ids ids, found(tokens.begin_of(document + 1) - tokens.begin_of(document));
      for (std::int64_t id = 0; numbers >> id;) ids.push_back(id);
      tokens.read(tokens.begin_of(document), found);
      EXPECT_EQ(found, ids) << name << ' ' << document;
    }
    EXPECT_GT(document, 1u);
    EXPECT_EQ(document, tokens.documents()) << name;
  }
}

TEST_F(Megatron, GetsFilesOfEveryWidth) {
  std::ofstream(folder_ + "text") << "ab\f\fcde\f";
  for (const auto& [name, vocabulary] :
       {std::pair{"ours_u16", 60000}, std::pair{"ours_i32", 150000}}) {
    const Doubling tokenizer(vocabulary);
    const auto made = convert({.inputs = {folder_ + "text"}, .prefix = folder_ + name}, tokenizer,
                              [](const ConvertProgress&) {});
    ASSERT_TRUE(made);
    EXPECT_EQ(made->description.documents, 3);
  }
}

}  // namespace
}  // namespace pf
