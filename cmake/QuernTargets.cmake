# Target helpers: one static library per folder of src/quern, one test binary per folder of tests.

# Warnings and sanitizers for our own code (third-party headers are SYSTEM).
add_library(quern_options INTERFACE)
if(NOT QUERN_FUZZ)  # clang warns of other things than GCC, whose warnings are errors here
  target_compile_options(quern_options INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Werror)
endif()
target_include_directories(quern_options INTERFACE "${CMAKE_SOURCE_DIR}/src")
set(QUERN_TEST_TIMEOUT_SECONDS 600)
if(QUERN_SANITIZE)
  set(QUERN_TEST_TIMEOUT_SECONDS 3600)  # numeric tests run 10 to 50 times longer
  target_compile_options(quern_options INTERFACE -fsanitize=${QUERN_SANITIZE} -fno-omit-frame-pointer -g)
  target_link_options(quern_options INTERFACE -fsanitize=${QUERN_SANITIZE})
  if(QUERN_SANITIZE MATCHES "undefined")
    target_compile_options(quern_options INTERFACE -fno-sanitize-recover=undefined)
  endif()
endif()

# quern_library(<folder> [DEPS <folder>...] [LIBS <external>...]): all *.cc below the calling folder.
function(quern_library name)
  cmake_parse_arguments(ARG "" "" "DEPS;LIBS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*.cc")
  list(TRANSFORM ARG_DEPS PREPEND "quern_")
  if(NOT sources)  # a folder that has no code yet
    add_library(quern_${name} INTERFACE)
    target_link_libraries(quern_${name} INTERFACE quern_options ${ARG_DEPS} ${ARG_LIBS})
    return()
  endif()
  add_library(quern_${name} STATIC ${sources})
  target_link_libraries(quern_${name} PUBLIC quern_options ${ARG_DEPS} ${ARG_LIBS})
endfunction()

# quern_test(<folder> [DEPS <folder>...] [LIBS <external>...] [LABELS unit|golden|e2e]): the *_test.cc of
# the calling folder as one GoogleTest binary; each TEST is one CTest entry.
function(quern_test name)
  cmake_parse_arguments(ARG "" "" "DEPS;LIBS;LABELS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*_test.cc")
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT sources)
    return()
  endif()
  list(TRANSFORM ARG_DEPS PREPEND "quern_")
  add_executable(${name}_test ${sources})
  target_link_libraries(${name}_test PRIVATE ${ARG_DEPS} ${ARG_LIBS} GTest::gmock GTest::gtest_main)
  target_include_directories(${name}_test PRIVATE "${CMAKE_SOURCE_DIR}")
  # A test is compiled far more often than its own code could win back by running faster.
  target_compile_options(${name}_test PRIVATE $<$<CONFIG:Release>:-O1>)
  target_compile_definitions(${name}_test PRIVATE QUERN_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  gtest_discover_tests(${name}_test PROPERTIES LABELS "${ARG_LABELS}"
                       TIMEOUT ${QUERN_TEST_TIMEOUT_SECONDS} DISCOVERY_TIMEOUT 60)
endfunction()
