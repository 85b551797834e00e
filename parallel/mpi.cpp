#include "parallel/mpi.h"

#include <chrono>
#include <cstdlib>
#include <exception>
#include <thread>

#include "core/error.h"
#include "parallel/mpi_communicator.h"

namespace pf {
namespace {

int world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

}  // namespace

void check(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(std::string("MPI: ") + what + ": " + std::string(text, std::size_t(length)));
}

bool mpi_is_running() {
  int is_started = 0, has_ended = 0;
  MPI_Initialized(&is_started);
  MPI_Finalized(&has_ended);
  return is_started != 0 && has_ended == 0;
}

bool is_mpi_rank() {
  const auto variable = [](const char* name) { return std::getenv(name) != nullptr; };
  if (variable("OMPI_COMM_WORLD_SIZE") || variable("PMIX_RANK") || variable("PMI_RANK"))
    return true;
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  require(tasks == nullptr || std::atoi(tasks) < 2, "srun started ", tasks,
          " tasks without MPI, each of which would train alone; use srun --mpi=pmix");
  return false;
}

Mpi::Mpi() {
  int level = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level), "MPI_Init_thread");
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  require(tasks == nullptr || size() > 1 || std::atoi(tasks) < 2, "srun started ", tasks,
          " tasks, but MPI sees only one; use srun --mpi=pmix");
}

Mpi::~Mpi() {
  if (std::uncaught_exceptions() == 0 && mpi_is_running()) MPI_Finalize();
}

int Mpi::rank() const {
  return world_rank();
}

int Mpi::size() const {
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

int Mpi::ranks_here() const {
  MPI_Comm here = MPI_COMM_NULL;
  int ranks = 1;
  check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here),
        "ranks of this machine");
  MPI_Comm_size(here, &ranks);
  MPI_Comm_free(&here);
  return ranks;
}

std::unique_ptr<Communicator> Mpi::communicator(const CommunicatorOptions& options,
                                                int ranks) const {
  const bool is_in = ranks == 0 || rank() < ranks;
  const int here = ranks_here();
  MPI_Comm comm = MPI_COMM_NULL;
  check(MPI_Comm_split(MPI_COMM_WORLD, is_in ? 0 : MPI_UNDEFINED, rank(), &comm), "a world");
  return is_in ? make_mpi_communicator(comm, options, here) : nullptr;
}

void end_mpi(int code) {
  if (!mpi_is_running()) return;
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

void wait_for_first_rank() {
  if (mpi_is_running() && world_rank() != 0) std::this_thread::sleep_for(std::chrono::seconds(1));
}

std::string mpi_prefix() {
  return mpi_is_running() ? "rank " + std::to_string(world_rank()) + ": " : "";
}

}  // namespace pf
