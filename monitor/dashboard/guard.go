package dashboard

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
)

// minToken is the shortest token in bytes; one that is made has 26.
const minToken = 16

// Listen opens the address of a dashboard. One beyond loopback is refused without a
// token.
func Listen(address, token string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dashboard: address %q is not host:port, such as 127.0.0.1:8080", address)
	}
	if !loopback(host) && token == "" {
		return nil, fmt.Errorf("dashboard: at %s everybody in the network could look: give a token's file, or listen on 127.0.0.1 and come through ssh -L", address)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("dashboard: %w", err)
	}
	return listener, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ReadToken reads a token from a file, which is made with a random one where there
// is none. No path is no token.
func ReadToken(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		content = []byte(rand.Text() + "\n")
		err = os.WriteFile(path, content, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("dashboard: token: %w", err)
	}
	token := strings.TrimSpace(string(content))
	if len(token) < minToken {
		return "", fmt.Errorf("dashboard: the token in %s has %d bytes, at least %d are needed: remove the file to have one made", path, len(token), minToken)
	}
	return token, nil
}

// cookie holds the token in a browser.
const cookie = "dreamfleet_token"

// guard lets in whoever may look, and tells browsers to keep the page apart from
// all others.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		switch {
		case s.cfg.Token == "":
			// A page of another site can have its own name point here; it comes with
			// that name.
			host := r.Host
			if h, _, err := net.SplitHostPort(host); err == nil {
				host = h
			}
			if !loopback(host) {
				http.Error(w, "this dashboard answers to localhost and 127.0.0.1 only", http.StatusForbidden)
				return
			}
		case r.URL.Query().Has("token"):
			// Into a cookie, and out of the address, which is shown and kept.
			if !s.knows(r.URL.Query().Get("token")) {
				refuse(w)
				return
			}
			http.SetCookie(w, &http.Cookie{Name: cookie, Value: s.cfg.Token, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil})
			http.Redirect(w, r, "/", http.StatusSeeOther)
			return
		case !s.authorized(r):
			refuse(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func refuse(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="dreamfleet"`)
	http.Error(w, "this dashboard needs its token: open it once with /?token=...", http.StatusUnauthorized)
}

func (s *Server) authorized(r *http.Request) bool {
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return s.knows(token)
	}
	c, err := r.Cookie(cookie)
	return err == nil && s.knows(c.Value)
}

// knows compares tokens in a time that tells nothing of them.
func (s *Server) knows(token string) bool {
	have, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(s.cfg.Token))
	return subtle.ConstantTimeCompare(have[:], want[:]) == 1
}
