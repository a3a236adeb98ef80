// Without the interpreter's lock, also in a thread that outlives the interpreter.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

namespace tide::bind {

/// Whether the interpreter is ending: a thread that wants its lock now never gets it.
inline bool InterpreterEnds() {
#if PY_VERSION_HEX >= 0x030d0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

/// Before this thread asks for the lock. Where that would end the thread, as Python before 3.14
/// does by unwinding its stack, it waits for the end of the process instead: unwinding through
/// destructors ends the process at once, with an abort.
inline void AwaitEndOfProcess() {
  while (InterpreterEnds()) pause();
}

/// Releases the lock and has it again at the end. A daemon thread may be in there when the
/// interpreter ends.
class WithoutInterpreter {
 public:
  WithoutInterpreter() : state_(PyEval_SaveThread()) {}
  ~WithoutInterpreter() {
    AwaitEndOfProcess();
    PyEval_RestoreThread(state_);
  }
  WithoutInterpreter(const WithoutInterpreter&) = delete;
  WithoutInterpreter& operator=(const WithoutInterpreter&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace tide::bind
