package deploy

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// Command is one command on one host.
type Command struct {
	Host  Host
	About string // what it is for, in words
	Shell string // the command line, for the host's shell

	Local   string // a file of this machine that is its standard input, or
	Content []byte // the input itself; neither: it has none
	Hold    bool   // an input that stays open and empty until the command is given up
}

// Args is the command line of ssh on this machine, without its name. ssh takes the first of two equal
// options, so the host's own win, and reads the user's configuration for all else. BatchMode never
// asks; a link that is silent for half a minute is given up.
func (c Command) Args() []string {
	var args []string
	for _, option := range c.Host.Options {
		args = append(args, "-o", option)
	}
	args = append(args, "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10",
		"-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")
	if c.Host.Port != 0 {
		args = append(args, "-p", strconv.Itoa(c.Host.Port))
	}
	if c.Host.Identity != "" {
		args = append(args, "-i", c.Host.Identity)
	}
	if c.Host.User != "" {
		args = append(args, "-l", c.Host.User)
	}
	return append(args, "--", c.Host.Address, c.Shell)
}

// String is the command as one would type it, under a comment that says what it is for.
func (c Command) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s: %s\nssh", c.Host.Name, c.About)
	for _, arg := range c.Args() {
		b.WriteString(" " + quote(arg))
	}
	switch {
	case c.Local != "":
		fmt.Fprintf(&b, " <%s\n", quote(c.Local))
	case c.Content != nil:
		end := "END"
		for strings.Contains("\n"+string(c.Content), "\n"+end+"\n") {
			end += "_"
		}
		fmt.Fprintf(&b, " <<'%s'\n%s%s\n", end, c.Content, end)
	default:
		b.WriteString(" </dev/null\n") // or ssh would read the lines that are pasted after it
	}
	return b.String()
}

// quote makes one word of s for a shell.
func quote(s string) string {
	plain := s != "" && !strings.HasPrefix(s, "=") // which zsh expands
	for _, r := range s {
		plain = plain && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%+=:,./_-", r))
	}
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// push writes a file beside its place and moves it there once it is whole.
func push(h Host, folder string, f File) Command {
	size := fmt.Sprintf("%d bytes", f.Size)
	if f.Size > 1<<20 {
		size = fmt.Sprintf("%.1f MB", float64(f.Size)/1e6)
	}
	aside := quote(f.Path + ".new")
	return Command{
		Host: h, About: fmt.Sprintf("%s, %s", f.Path, size), Local: f.Local, Content: f.Content,
		Shell: fmt.Sprintf(`umask 077 && mkdir -p %s && cd %s && cat >%s && [ "$(sha256sum <%s | cut -d " " -f 1)" = %s ] && chmod %s %s && mv -f %s %s`,
			quote(path.Join(folder, path.Dir(f.Path))), quote(folder), aside, aside, f.Digest, octal(f.Mode), aside, aside, quote(f.Path)),
	}
}

// within is a command line in the run's folder.
func within(h Host, folder, about string, words ...string) Command {
	return Command{Host: h, About: about, Shell: "cd " + quote(folder) + " && " + words2line(words)}
}

func words2line(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return strings.Join(quoted, " ")
}

func octal(mode fs.FileMode) string { return fmt.Sprintf("%o", mode.Perm()) }
