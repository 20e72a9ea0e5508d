package deploy

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Plan returns the commands that make of what a host has what it should have: none where nothing
// differs. Of roles, if there are any, it looks at those alone, and leaves all else as it is.
func Plan(h Host, folder string, want Want, have Have, roles []string) []Command {
	chosen := func(role string) bool { return len(roles) == 0 || slices.Contains(roles, role) }
	var commands []Command
	wanted := map[string]File{}
	for _, f := range want.Files {
		wanted[f.Path] = f
		if role, ok := strings.CutPrefix(f.Path, "units/"); ok && !chosen(role) {
			continue
		}
		switch have := have.Files[f.Path]; {
		case have.Digest != f.Digest:
			commands = append(commands, push(h, folder, f))
		case have.Mode != f.Mode:
			commands = append(commands, within(h, folder, "mode of "+f.Path, "chmod", octal(f.Mode), f.Path))
		}
	}

	var surplus, start []string
	for _, unit := range sortedUnits(have.Units) {
		if !slices.Contains(want.Units, unit) && chosen(roleOf(unit)) {
			surplus = append(surplus, unit)
		}
	}
	for _, unit := range want.Units {
		if chosen(roleOf(unit)) && !current(unit, have.Units[unit], wanted["units/"+roleOf(unit)]) {
			start = append(start, unit)
		}
	}
	if len(surplus) > 0 {
		commands = append(commands, stopping(h, folder, surplus))
	}
	if len(start) > 0 {
		commands = append(commands, starting(h, folder, start))
	}

	// What is left over goes last, and stays where roles that are not looked at may need it.
	var remove []string
	for _, path := range slices.Sorted(maps.Keys(have.Files)) {
		if _, ok := wanted[path]; !ok && len(roles) == 0 {
			remove = append(remove, path)
		}
	}
	if len(remove) > 0 {
		commands = append(commands, within(h, folder, "remove "+strings.Join(remove, " "), append([]string{"rm", "-f", "--"}, remove...)...))
	}
	return commands
}

// current tells whether a unit is as it should be: it runs, or is a learner whose budget is used up, and
// what it depends on is what it was started with.
func current(unit string, s State, file File) bool {
	return s.Unit == file.Digest && (s.Running || unit == RoleLearner && s.Code == 0)
}

func starting(h Host, folder string, units []string) Command {
	return within(h, folder, "start "+strings.Join(units, " "), append([]string{"sh", "host.sh", "start", h.Service}, units...)...)
}

func stopping(h Host, folder string, units []string) Command {
	return within(h, folder, "stop "+strings.Join(units, " "), append([]string{"sh", "host.sh", "stop"}, units...)...)
}

// sortedUnits lists units in the order of their roles and numbers.
func sortedUnits(units map[string]State) []string {
	order := []string{RoleNATS, RoleReplay, RoleLearner, RoleActor}
	return slices.SortedFunc(maps.Keys(units), func(a, b string) int {
		number := func(unit string) int {
			n, _ := strconv.Atoi(strings.TrimPrefix(unit, roleOf(unit)+"-")) // 0 for what has none
			return n
		}
		return cmp.Or(cmp.Compare(slices.Index(order, roleOf(a)), slices.Index(order, roleOf(b))), cmp.Compare(number(a), number(b)))
	})
}
