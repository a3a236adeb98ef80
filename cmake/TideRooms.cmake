# tide_room(NAME [USES room...]): a static library from csrc/NAME/*.cc; main.cc belongs to the daemon.
# A room without sources yet is an interface library, so that the arrows stay the same.
find_package(absl REQUIRED)
find_package(Threads REQUIRED)

set(TIDE_ABSL absl::status absl::statusor absl::strings absl::str_format absl::time absl::synchronization
    absl::flat_hash_map absl::flat_hash_set absl::btree absl::inlined_vector absl::span)

add_library(tide_flags INTERFACE)
target_compile_features(tide_flags INTERFACE cxx_std_20)
target_include_directories(tide_flags INTERFACE "${CMAKE_SOURCE_DIR}/csrc")
target_compile_options(tide_flags INTERFACE -Wall -Wextra -Werror -Wno-missing-field-initializers
    $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety> -fno-omit-frame-pointer)
if(TIDE_SANITIZE)
  target_compile_options(tide_flags INTERFACE -fsanitize=${TIDE_SANITIZE})
  target_link_options(tide_flags INTERFACE -fsanitize=${TIDE_SANITIZE})
  # Asio's fences, which GCC's thread sanitizer does not model, stand only beside its atomics.
  if(TIDE_SANITIZE STREQUAL "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(tide_flags INTERFACE -Wno-tsan)
  endif()
endif()

# tide_precompile(TARGET FIRST header...): TARGET includes what has been parsed for FIRST, which is parsed here when it
# is TARGET. CMAKE_DISABLE_PRECOMPILE_HEADERS=ON turns it off.
function(tide_precompile target first)
  if(target STREQUAL first)
    target_precompile_headers(${target} PRIVATE ${ARGN})
  else()
    target_precompile_headers(${target} REUSE_FROM ${first})
  endif()
  # The first lets ccache look into what was parsed. GCC 12 takes some uses of std::string for overruns, and with headers
  # parsed before it does not see that these warnings are of a system header.
  target_compile_options(${target} PRIVATE "$<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess;-Wno-array-bounds;-Wno-restrict>"
      "$<$<CXX_COMPILER_ID:GNU>:-Wno-stringop-overread;-Wno-stringop-overflow>")
endfunction()

# What each room needs beyond Abseil.
set(TIDE_ROOM_LIBS_wire xxhash)
set(TIDE_ROOM_LIBS_coordinator sqlite3 ssl crypto cpp-httplib)

function(tide_room name)
  cmake_parse_arguments(ARG "" "" "USES" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/csrc/${name}/*.cc")
  list(FILTER sources EXCLUDE REGEX "/main\\.cc$")
  list(TRANSFORM ARG_USES PREPEND tide_)
  if(sources)
    add_library(tide_${name} STATIC ${sources})
    target_link_libraries(tide_${name} PUBLIC tide_flags ${ARG_USES} ${TIDE_ABSL} Threads::Threads
        ${TIDE_ROOM_LIBS_${name}})
    tide_precompile(tide_${name} tide_base "${CMAKE_SOURCE_DIR}/cmake/precompiled.h")
  else()
    add_library(tide_${name} INTERFACE)
    target_link_libraries(tide_${name} INTERFACE tide_flags ${ARG_USES} ${TIDE_ABSL})
  endif()
endfunction()

# tide_daemon(NAME ROOM): the executable from csrc/ROOM/main.cc, placed into the package's bin/.
function(tide_daemon name room)
  if(NOT EXISTS "${CMAKE_SOURCE_DIR}/csrc/${room}/main.cc")
    return()
  endif()
  add_executable(${name} "${CMAKE_SOURCE_DIR}/csrc/${room}/main.cc")
  if(TIDE_SANITIZE STREQUAL "thread")
    target_sources(${name} PRIVATE "${CMAKE_SOURCE_DIR}/tests/tsan_absl.cc")
  endif()
  target_link_libraries(${name} PRIVATE tide_${room})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${TIDE_STAGE_DIR}/bin")
  if(SKBUILD)
    install(TARGETS ${name} RUNTIME DESTINATION torchtide/bin)
  endif()
endfunction()
