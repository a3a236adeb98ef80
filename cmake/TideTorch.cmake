# tide_find_torch(MINOR ROOT): "2_15" and the package folder of torch, without importing or linking it.
# Looked for in the interpreter that builds, then $TIDE_TORCH_PYTHON, then the active virtual environment:
# an isolated `pip wheel .` has no torch of its own (docs/decisions/0004-wheel-and-torch.md).
function(tide_find_torch minor root)
  foreach(interpreter "${Python_EXECUTABLE}" "$ENV{TIDE_TORCH_PYTHON}" "$ENV{VIRTUAL_ENV}/bin/python")
    if(NOT EXISTS "${interpreter}")
      continue()
    endif()
    execute_process(COMMAND "${CMAKE_COMMAND}" -E env --unset=PYTHONPATH "${interpreter}"
        "${CMAKE_SOURCE_DIR}/csrc/bind/torch_paths.py"
        OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
    if(NOT failed)
      list(GET found 0 found_minor)
      list(GET found 1 found_root)
      set(${minor} "${found_minor}" PARENT_SCOPE)
      set(${root} "${found_root}" PARENT_SCOPE)
      message(STATUS "torch ${found_minor} of ${interpreter}")
      return()
    endif()
  endforeach()
  message(FATAL_ERROR "No torch to build the adapter for. Build where torch is installed "
      "(pip wheel . --no-build-isolation), or name an interpreter that has it "
      "(TIDE_TORCH_PYTHON=/path/to/python), or leave the adapter out (-DTIDE_BUILD_TORCH=OFF).")
endfunction()
