// See tls_context.h.
#include "quern/server/tls_context.h"

#include <openssl/ssl.h>

#include "quern/base/error.h"

namespace quern::server {
namespace {

namespace ssl = boost::asio::ssl;
using boost::system::error_code;

void check(const error_code& error, const char* option, const std::string& value) {
  if (error) throw Error("{} {}: {}", option, value, error.message());
}

}  // namespace

std::unique_ptr<ssl::context> make_tls_context(const TlsOptions& options) {
  if (options.certfile.empty()) {
    if (!options.keyfile.empty() || !options.ca_certs.empty()) {
      throw UsageError("--ssl-certfile is needed with the other --ssl options");
    }
    return nullptr;
  }
  auto context = std::make_unique<ssl::context>(ssl::context::tls_server);
  context->set_options(ssl::context::no_tlsv1 | ssl::context::no_tlsv1_1);
  error_code error;
  context->use_certificate_chain_file(options.certfile, error);
  check(error, "--ssl-certfile", options.certfile);
  const std::string& key = options.keyfile.empty() ? options.certfile : options.keyfile;
  context->use_private_key_file(key, ssl::context::pem, error);
  check(error, "--ssl-keyfile", key);
  if (!options.ca_certs.empty()) {
    context->load_verify_file(options.ca_certs, error);
    check(error, "--ssl-ca-certs", options.ca_certs);
  }
  if (options.cert_reqs < 0 || options.cert_reqs > 2) {
    throw UsageError("--ssl-cert-reqs: 0 (none), 1 (optional) or 2 (required), got {}",
                     options.cert_reqs);
  }
  if (options.cert_reqs > 0 && options.ca_certs.empty()) {
    throw UsageError("--ssl-cert-reqs {}: --ssl-ca-certs is needed to judge clients' certificates",
                     options.cert_reqs);
  }
  context->set_verify_mode(options.cert_reqs == 0 ? ssl::verify_none
                           : options.cert_reqs == 1
                               ? ssl::verify_peer
                               : ssl::verify_peer | ssl::verify_fail_if_no_peer_cert);
  if (!options.ciphers.empty() &&
      SSL_CTX_set_cipher_list(context->native_handle(), options.ciphers.c_str()) != 1) {
    throw Error("--ssl-ciphers {}: no cipher of the list is known", options.ciphers);
  }
  return context;
}

}  // namespace quern::server
