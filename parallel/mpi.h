// Ranks that are processes, started by mpirun or srun.
#pragma once

#include <memory>
#include <string>

#include "parallel/communicator.h"

namespace pf {

// Whether a launcher started this process as a rank of MPI. Throws Error under an srun that started
// several tasks without MPI, which would each train alone.
bool is_mpi_rank();

// MPI's life in this process, once. The destructor waits for all ranks, but not while an exception
// passes: whoever reports that calls end_mpi().
class Mpi {
 public:
  Mpi();
  ~Mpi();
  Mpi(const Mpi&) = delete;
  Mpi& operator=(const Mpi&) = delete;

  int rank() const;
  int size() const;
  int ranks_here() const;  // on this machine

  // A world of the first `ranks` ranks, all by default. All ranks call it; null on those that are
  // not in it. Bytes travel as MPI's non-blocking messages, which are tested while a rank waits or
  // polls. A wait ends as an Error when MPI says so, when sizes disagree, or by the watchdog; a
  // rank that is gone is the launcher's to notice.
  std::unique_ptr<Communicator> communicator(const CommunicatorOptions& options = {},
                                             int ranks = 0) const;
};

// If MPI runs in this process: ends all ranks with exit code `code` and does not return.
void end_mpi(int code);

// Before a rank says why it ends: ranks other than 0 wait a second, so that of an error that all
// have only rank 0's is heard, whose end_mpi() comes meanwhile.
void wait_for_first_rank();

// "rank 2: " where MPI runs, else empty.
std::string mpi_prefix();

}  // namespace pf
