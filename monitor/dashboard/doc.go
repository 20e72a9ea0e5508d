// Package dashboard serves a page that shows runs as they go: who lives, how fast,
// what waits, what the replay holds, the curves, what was forgotten, and the
// environment itself. The page is one file embedded in the program, which asks
// nobody but the server it came from.
//
//	listener, err := dashboard.Listen("127.0.0.1:8080", token)
//	server := dashboard.New(dashboard.Config{Bus: bus, Token: token, Now: time.Now, Log: log})
//	err = server.Serve(ctx, listener) // until ctx ends
//
// What can be asked for, all of it by GET:
//
//	/                            the page
//	/api/state                   fleet.State as JSON
//	/api/events                  server-sent events: state, curves, matrix, episodes, trouble
//	/api/view?run=R&actor=A      server-sent events: clip, of a running actor
//	/api/episode?name=N          a recorded episode, a view.Clip as JSON
//
// # Invariants
//
// It is for looking: nothing that it serves changes a run. The bus is asked only
// while somebody looks, once for all of them, and a running actor only while its
// view is open. A slow reader skips what is older than the newest. Beyond this
// machine it serves nobody without a token, and on this machine only requests that
// name it, so that no other site's page can read it by a name of its own.
package dashboard
