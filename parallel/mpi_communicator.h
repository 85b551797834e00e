// Between mpi.cpp and mpi_communicator.cpp.
#pragma once

// Without the C++ bindings, which MPI 3 has removed.
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <memory>

#include "parallel/communicator.h"

namespace pf {

// Throws Error with MPI's text unless `code` is MPI_SUCCESS.
void check(int code, const char* what);
bool mpi_is_running();

// Owns `comm`; `ranks_here` of its ranks are on this machine.
std::unique_ptr<Communicator> make_mpi_communicator(MPI_Comm comm,
                                                    const CommunicatorOptions& options,
                                                    int ranks_here);

}  // namespace pf
