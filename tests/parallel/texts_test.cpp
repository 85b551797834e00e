#include "parallel/texts.h"

#include <gtest/gtest.h>

namespace pf {
namespace {

TEST(Texts, OfAllRanksAreOnTheFirstInOrder) {
  for (const int ranks : {1, 3})
    run_thread_ranks(ranks, [&](Communicator& communicator) {
      const int rank = communicator.rank();
      const std::string own(std::size_t(rank) * 70'000, char('a' + rank));  // the first is empty
      const std::vector<std::string> all = gather_texts(communicator, "test", own);
      ASSERT_EQ(std::ssize(all), rank == 0 ? ranks : 0);
      for (std::size_t r = 0; r < all.size(); ++r)
        EXPECT_EQ(all[r], std::string(r * 70'000, char('a' + int(r))));
    });
}

TEST(Texts, OfTheFirstRankAreOnAll) {
  run_thread_ranks(3, [](Communicator& communicator) {
    const std::string own = "of rank " + std::to_string(communicator.rank());
    EXPECT_EQ(share_text(communicator, "test", own), "of rank 0");
  });
}

}  // namespace
}  // namespace pf
