#include "core/error.h"
#include "parallel/communicator.h"

namespace pf {
namespace {

class Done : public Pending {
 public:
  bool poll() override { return true; }
  void wait() override {}
};

}  // namespace

std::unique_ptr<Pending> FakeCommunicator::exchange(std::span<const int> group, const Call& call,
                                                    std::vector<ConstBytes> send,
                                                    std::vector<Bytes> receive) {
  require(failure_.empty(), failure_);
  require(send.size() == group.size() && receive.size() == group.size(), text(call), ": ",
          send.size(), " and ", receive.size(), " pieces for ", group.size(), " ranks");
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < group.size(); ++i)
    if (group[i] != rank_) bytes += send[i].size();
  count(traffic_, call, bytes);
  return std::make_unique<Done>();
}

std::unique_ptr<Pending> FakeCommunicator::send(int, const Call& call, ConstBytes bytes) {
  count(traffic_, call, bytes.size());
  return std::make_unique<Done>();
}

std::unique_ptr<Pending> FakeCommunicator::receive(int, const Call& call, Bytes) {
  count(traffic_, call, 0);
  return std::make_unique<Done>();
}

void FakeCommunicator::abort(const std::string& message) {
  if (failure_.empty()) failure_ = message;
}

}  // namespace pf
