// Boost.URL, compiled here because only its headers are installed.
// Must never hold anything else.
// Proved by tests/server/media_http_test.cc.
#include <boost/url/src.hpp>
