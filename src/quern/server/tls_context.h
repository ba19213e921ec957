// The server's side of TLS: certificate, key and rules from the operator's files.
// Must never fall back to plain text: what cannot be read is an Error.
// Proved by tests/server/tls_test.cc.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <memory>

#include "quern/server/http_server.h"

namespace quern::server {

// nullptr when no certificate is given. Throws Error that names option and file.
std::unique_ptr<boost::asio::ssl::context> make_tls_context(const TlsOptions& options);

}  // namespace quern::server
