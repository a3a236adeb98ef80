// Without the interpreter's lock and with it again, also in a thread that outlives the interpreter.
#pragma once

#include <cxxabi.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <utility>

namespace tide::bind {

/// Whether this thread is the one that ends the interpreter, and gets its lock whenever it asks:
/// the module sets it in a function of atexit, after which the end begins.
inline constinit thread_local bool ends_interpreter = false;

/// Whether another thread is ending the interpreter, or has: to ask for its lock is in vain.
inline bool AnotherEndsInterpreter() {
#if PY_VERSION_HEX >= 0x030d0000
  return !ends_interpreter && Py_IsFinalizing() != 0;
#else
  return !ends_interpreter && _Py_IsFinalizing() != 0;
#endif
}

/// Calls what may ask for the lock, and nothing else: there are no destructors between here and
/// Python. A thread that asks for it when another one ends the interpreter is ended there, by
/// Python before 3.14, which unwinds its stack; the first destructor of that stack that asks again,
/// or that gives back what it does not have, would abort the process. Here the thread waits for the
/// end of the process instead, as it does since Python 3.14.
template <typename Asks>
auto OrAwaitEndOfProcess(Asks asks) {
  // Not left to Python: of an interpreter that has ended there is nothing left to ask.
  while (AnotherEndsInterpreter()) pause();
  try {
    return asks();
  } catch (abi::__forced_unwind&) {
    for (;;) pause();
  }
}

/// Releases the lock and has it again at the end. A daemon thread may be in there when the
/// interpreter ends.
class WithoutInterpreter {
 public:
  WithoutInterpreter() : state_(PyEval_SaveThread()) {}
  ~WithoutInterpreter() {
    OrAwaitEndOfProcess([this] { PyEval_RestoreThread(state_); });
  }
  WithoutInterpreter(const WithoutInterpreter&) = delete;
  WithoutInterpreter& operator=(const WithoutInterpreter&) = delete;

 private:
  PyThreadState* state_;
};

/// Has the lock in a thread that may have it or not. Python is called by Call in there.
class WithInterpreter {
 public:
  WithInterpreter() {
    OrAwaitEndOfProcess([this] { state_ = PyGILState_Ensure(); });
  }
  ~WithInterpreter() { PyGILState_Release(state_); }
  WithInterpreter(const WithInterpreter&) = delete;
  WithInterpreter& operator=(const WithInterpreter&) = delete;

 private:
  PyGILState_STATE state_;
};

/// function(arguments...), from under frames of C++. Python's code gives up the lock now and then,
/// and may find that the interpreter ends when it asks for it again.
template <typename... Arguments>
pybind11::object Call(const pybind11::object& function, Arguments&&... arguments) {
  const pybind11::tuple given = pybind11::make_tuple(std::forward<Arguments>(arguments)...);
  PyObject* const result =
      OrAwaitEndOfProcess([&] { return PyObject_CallObject(function.ptr(), given.ptr()); });
  if (result == nullptr) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(result);
}

}  // namespace tide::bind
