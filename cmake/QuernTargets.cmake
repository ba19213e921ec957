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
  # Asio's fences, which ThreadSanitizer does not model, stand beside atomics and mutexes that it does; and
  # GCC 12 inlines Asio's aligned_alloc() for a coroutine's frame but not the operator delete that frees it.
  target_compile_options(quern_options INTERFACE -Wno-tsan -Wno-mismatched-new-delete)
  if(QUERN_SANITIZE MATCHES "undefined")
    target_compile_options(quern_options INTERFACE -fno-sanitize-recover=undefined)
  endif()
endif()

# Files that share a compilation unit: parsing the headers of JSON, Asio, spdlog and GoogleTest costs
# far more than our own code, and a unit of eight files costs what two do alone. With
# -DQUERN_UNITY_BATCH_SIZE=0 (preset debug) each file compiles alone: quicker after an edit, and it
# holds that every file includes what it uses.
set(QUERN_UNITY_BATCH_SIZE 8 CACHE STRING "Source files in a compilation unit; 0: each alone")
function(quern_unity target)
  if(QUERN_UNITY_BATCH_SIZE GREATER 0)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON
                          UNITY_BUILD_BATCH_SIZE ${QUERN_UNITY_BATCH_SIZE})
    # A type that holds one of an anonymous namespace is fine in the file that GCC compiles, but in
    # a unit each file is an include.
    target_compile_options(${target} PRIVATE -Wno-subobject-linkage)
  endif()
endfunction()

# quern_library(<folder> [ALONE] [DEPS <folder>...] [LIBS <external>...]): all *.cc below the calling
# folder; ALONE: each file its own compilation unit (Highway's headers are included once a target).
function(quern_library name)
  cmake_parse_arguments(ARG "ALONE" "" "DEPS;LIBS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*.cc")
  list(TRANSFORM ARG_DEPS PREPEND "quern_")
  if(NOT sources)  # a folder that has no code yet
    add_library(quern_${name} INTERFACE)
    target_link_libraries(quern_${name} INTERFACE quern_options ${ARG_DEPS} ${ARG_LIBS})
    return()
  endif()
  add_library(quern_${name} STATIC ${sources})
  if(NOT ARG_ALONE)
    quern_unity(quern_${name})
  endif()
  target_link_libraries(quern_${name} PUBLIC quern_options ${ARG_DEPS} ${ARG_LIBS})
endfunction()

# quern_test(<folder> [ALONE] [DEPS <folder>...] [LIBS <external>...] [LABELS unit|golden|e2e]): the *_test.cc of
# the calling folder as one GoogleTest binary; each TEST is one CTest entry.
function(quern_test name)
  cmake_parse_arguments(ARG "ALONE" "" "DEPS;LIBS;LABELS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*_test.cc")
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT sources)
    return()
  endif()
  list(TRANSFORM ARG_DEPS PREPEND "quern_")
  add_executable(${name}_test ${sources})
  if(NOT ARG_ALONE)
    quern_unity(${name}_test)
  endif()
  target_link_libraries(${name}_test PRIVATE ${ARG_DEPS} ${ARG_LIBS} GTest::gmock GTest::gtest_main)
  target_include_directories(${name}_test PRIVATE "${CMAKE_SOURCE_DIR}")
  # A test is compiled far more often than its own code could win back by running faster.
  target_compile_options(${name}_test PRIVATE $<$<CONFIG:Release>:-O1>)
  target_compile_definitions(${name}_test PRIVATE QUERN_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  gtest_discover_tests(${name}_test PROPERTIES LABELS "${ARG_LABELS}"
                       TIMEOUT ${QUERN_TEST_TIMEOUT_SECONDS} DISCOVERY_TIMEOUT 60)
endfunction()
