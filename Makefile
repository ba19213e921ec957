# Two commands: `make demo` and `make test`. Missing Debian packages are installed first; nothing is asked of the
# network when all are there.

PACKAGES := g++ cmake ninja-build pkg-config curl libcli11-dev libspdlog-dev nlohmann-json3-dev libyaml-cpp-dev \
            libboost1.81-dev libssl-dev libpcre2-dev prometheus-cpp-dev libhwy-dev libxxhash-dev libgtest-dev libgmock-dev \
            libbenchmark-dev libjpeg-dev libpng-dev libwebp-dev libgif-dev \
            libopenmpi-dev openmpi-bin
# For videos; without them the program is built without (34 MB to download, 118 MB installed).
VIDEO_PACKAGES := libavformat-dev libavcodec-dev libavutil-dev libswscale-dev
PYTHON_PACKAGES := pybind11-dev python3-dev
FUZZ_PACKAGES := clang libclang-rt-14-dev
LINT_PACKAGES := clang-format clang-tidy
JOBS ?= $(shell nproc)
# A compiler cache when there is one.
CCACHE := $(shell command -v ccache)
CMAKE_FLAGS := $(if $(CCACHE),-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)

.PHONY: all demo test test-asan test-tsan python fuzz bench lint format packages clean

all: build/release/bin/quern

packages:
	@tools/install_packages.sh $(PACKAGES)
	@tools/install_packages.sh $(VIDEO_PACKAGES) || echo "no videos: $(VIDEO_PACKAGES) cannot be installed"

build/%/build.ninja: | packages
	cmake --preset $* $(CMAKE_FLAGS)

.PHONY: build/release/bin/quern
build/release/bin/quern: build/release/build.ninja
	cmake --build --preset release -j $(JOBS) --target quern

demo: build/release/bin/quern
	tools/demo.sh build/release/bin/quern

test: build/release/build.ninja
	cmake --build --preset release -j $(JOBS)
	ctest --preset release -j $(JOBS) -LE slow

test-asan test-tsan: test-%: build/%/build.ninja
	cmake --build --preset $* -j $(JOBS)
	ctest --preset $* -j $(JOBS) -LE slow

# The Python package, with Debian's pybind11, and its test.
python: build/release/build.ninja
	@tools/install_packages.sh $(PYTHON_PACKAGES)
	cmake --preset release $(CMAKE_FLAGS) -DQUERN_BUILD_PYTHON=ON -DPYTHON_EXECUTABLE=/usr/bin/python3 -B build/python
	cmake --build build/python -j $(JOBS) --target _quern quern
	ctest --test-dir build/python --output-on-failure -R '^Python'

# Every fuzz target for FUZZ_SECONDS each; FUZZ=NAME runs one. Stops at the first finding.
FUZZ_SECONDS ?= 600
FUZZ ?= $(patsubst fuzz/%_fuzz.cc,%,$(wildcard fuzz/*_fuzz.cc))
fuzz: | packages
	@tools/install_packages.sh $(FUZZ_PACKAGES)
	cmake --preset fuzz $(CMAKE_FLAGS)
	cmake --build --preset fuzz -j $(JOBS)
	@set -e; for target in $(FUZZ); do \
	  echo "== $$target"; mkdir -p build/fuzz/corpus/$$target; \
	  build/fuzz/fuzz/$${target}_fuzz -max_total_time=$(FUZZ_SECONDS) -timeout=10 -print_final_stats=1 \
	    -artifact_prefix=build/fuzz/$$target- build/fuzz/corpus/$$target fuzz/corpus/$$target; \
	done

bench: build/release/build.ninja
	cmake --build --preset release -j $(JOBS) --target benches
	@for program in build/release/bench/*_bench; do echo "== $$program"; $$program; done

SOURCES = $(shell git ls-files '*.cc' '*.cpp' '*.h')
lint: build/release/build.ninja
	@tools/install_packages.sh $(LINT_PACKAGES)
	clang-format --dry-run --Werror $(SOURCES)
	clang-tidy -quiet -p build/release $(filter src/% apps/%,$(filter %.cc %.cpp,$(SOURCES)))

format:
	clang-format -i $(SOURCES)

clean:
	rm -rf build demo-output
