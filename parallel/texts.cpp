#include "parallel/texts.h"

#include <array>
#include <cstdint>
#include <span>

namespace pf {
namespace {

Call call_of(const char* kind) {
  return {kind, {}, DType::u8, {}, true, {}};
}

void send_text(Communicator& communicator, int to, const char* kind, const std::string& text) {
  const std::array<std::uint64_t, 1> size{text.size()};
  communicator.send(to, call_of(kind), std::as_bytes(std::span(size)))->wait();
  communicator.send(to, call_of(kind), std::as_bytes(std::span(text)))->wait();
}

std::string receive_text(Communicator& communicator, int from, const char* kind) {
  std::array<std::uint64_t, 1> size{};
  communicator.receive(from, call_of(kind), std::as_writable_bytes(std::span(size)))->wait();
  std::string text(size[0], ' ');
  communicator.receive(from, call_of(kind), std::as_writable_bytes(std::span(text)))->wait();
  return text;
}

}  // namespace

std::vector<std::string> gather_texts(Communicator& communicator, const char* kind,
                                      const std::string& own) {
  if (communicator.rank() != 0) {
    send_text(communicator, 0, kind, own);
    return {};
  }
  std::vector<std::string> all{own};
  for (int rank = 1; rank < communicator.size(); ++rank)
    all.push_back(receive_text(communicator, rank, kind));
  return all;
}

std::string share_text(Communicator& communicator, const char* kind, const std::string& of_first) {
  if (communicator.rank() != 0) return receive_text(communicator, 0, kind);
  for (int rank = 1; rank < communicator.size(); ++rank)
    send_text(communicator, rank, kind, of_first);
  return of_first;
}

}  // namespace pf
