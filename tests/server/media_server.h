// Small HTTP servers on loopback that answer as a test says, and a throw-away certificate.
// Must never need the network.
// Proved by use in media_http_test.cc and media_loader_test.cc.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace quern::server::test {

// Accepts connections; each gets what `answer` writes for the bytes of its request.
class LoopbackServer {
 public:
  // Writes pieces of an answer; false when the peer is gone.
  using Write = std::function<bool(const std::string&)>;
  using Answer = std::function<void(const std::string& request, const Write& write)>;

  explicit LoopbackServer(Answer answer, SSL_CTX* tls = nullptr)
      : answer_(std::move(answer)), tls_(tls), fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address);
    ::listen(fd_, 64);
    socklen_t size = sizeof address;
    ::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { accept_all(); });
  }
  ~LoopbackServer() {
    stop_ = true;
    thread_.join();
    for (std::thread& client : clients_) client.join();
    ::close(fd_);
  }

  std::string url(const std::string& path, const std::string& host = "127.0.0.1") const {
    return (tls_ != nullptr ? "https://" : "http://") + host + ":" + std::to_string(port_) + path;
  }
  int port() const { return port_; }
  int connections() const { return connections_; }
  bool stopping() const { return stop_; }

 private:
  void accept_all() {
    while (!stop_) {
      pollfd ready{fd_, POLLIN, 0};
      if (::poll(&ready, 1, 5) <= 0) continue;
      const int client = ::accept(fd_, nullptr, nullptr);
      if (client < 0) continue;
      ++connections_;
      clients_.emplace_back([this, client] { serve(client); });
    }
  }

  void serve(int client) {
    SSL* ssl = nullptr;
    if (tls_ != nullptr) {
      ssl = SSL_new(tls_);
      SSL_set_fd(ssl, client);
    }
    if (ssl == nullptr || SSL_accept(ssl) == 1) {
      const auto read = [&](char* to, int size) {
        return ssl != nullptr
                   ? SSL_read(ssl, to, size)
                   : static_cast<int>(::recv(client, to, static_cast<std::size_t>(size), 0));
      };
      const Write write = [&](const std::string& bytes) {
        if (bytes.empty()) return true;
        const auto size = static_cast<int>(bytes.size());
        const int sent =
            ssl != nullptr
                ? SSL_write(ssl, bytes.data(), size)
                : static_cast<int>(::send(client, bytes.data(), bytes.size(), MSG_NOSIGNAL));
        return sent == size;
      };
      std::string request;
      char buffer[4096];
      while (request.find("\r\n\r\n") == std::string::npos) {
        const int got = read(buffer, sizeof buffer);
        if (got <= 0) break;
        request.append(buffer, static_cast<std::size_t>(got));
      }
      if (!request.empty()) answer_(request, write);
    }
    if (ssl != nullptr) SSL_free(ssl);
    ::close(client);
  }

  Answer answer_;
  SSL_CTX* tls_;
  int fd_;
  int port_ = 0;
  std::atomic<bool> stop_{false};
  std::atomic<int> connections_{0};
  std::vector<std::thread> clients_;
  std::thread thread_;
};

inline std::string ok(const std::string& body) {
  return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}
inline std::string redirect(const std::string& to, int status = 302) {
  return "HTTP/1.1 " + std::to_string(status) + " Moved\r\nLocation: " + to +
         "\r\nContent-Length: 0\r\n\r\n";
}

// A self-signed certificate for `name`; its PEM file is `pem`, that of its key `key_pem` if given.
inline SSL_CTX* make_tls(const std::string& name, const std::filesystem::path& pem,
                         const std::filesystem::path& key_pem = {}) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  X509_NAME* subject = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509_set_issuer_name(certificate, subject);
  X509_EXTENSION* names =
      X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, ("DNS:" + name).c_str());
  X509_add_ext(certificate, names, -1);
  X509_EXTENSION_free(names);
  X509_sign(certificate, key, EVP_sha256());
  std::FILE* file = std::fopen(pem.c_str(), "w");
  PEM_write_X509(file, certificate);
  std::fclose(file);
  if (!key_pem.empty()) {
    file = std::fopen(key_pem.c_str(), "w");
    PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
    std::fclose(file);
  }
  SSL_CTX* context = SSL_CTX_new(TLS_server_method());
  SSL_CTX_use_certificate(context, certificate);
  SSL_CTX_use_PrivateKey(context, key);
  X509_free(certificate);
  EVP_PKEY_free(key);
  return context;
}

}  // namespace quern::server::test
