//! File modes: `rwxr-xr-t` and what `-chmod` accepts, octal (`755`, `1777`) or symbolic
//! (`u+x,g-w,a=rX,+t`). Without `ugo` a clause is for all three; no umask is applied.

/// The sticky bit among the twelve of a mode.
pub const STICKY: u16 = 0o1000;

/// Nine letters; `t` or `T` in the last place shows the sticky bit.
pub fn symbolic(mode: u16) -> String {
    let mut text: String = (0..9)
        .map(|bit| if mode & (0o400 >> bit) == 0 { '-' } else { b"rwx"[bit % 3] as char })
        .collect();
    if mode & STICKY != 0 {
        text.pop();
        text.push(if mode & 1 == 0 { 'T' } else { 't' });
    }
    text
}

/// A change of mode, to be applied to each path's own mode.
#[derive(Debug, PartialEq, Eq)]
pub struct ModeChange {
    user: Clause,
    group: Clause,
    others: Clause,
    sticky: Clause,
}

/// What becomes of three bits (or the sticky one).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clause {
    action: char,
    bits: u16,
    /// `X`: execute only for directories and where someone may already execute.
    execute_if_sensible: bool,
}

impl Clause {
    const NOTHING: Self = Self { action: '+', bits: 0, execute_if_sensible: false };

    fn set(bits: u16) -> Self {
        Self { action: '=', bits, execute_if_sensible: false }
    }

    fn apply(self, current: u16, execute_is_sensible: bool) -> u16 {
        let bits = self.bits | u16::from(self.execute_if_sensible);
        let result = match self.action {
            '+' => current | bits,
            '-' => current & !bits,
            _ => bits,
        };
        if self.execute_if_sensible && !execute_is_sensible && current & 1 == 0 {
            result & !1
        } else {
            result
        }
    }
}

impl ModeChange {
    /// `None` when the text is no mode.
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_octal(text).or_else(|| Self::parse_symbolic(text))
    }

    fn parse_octal(text: &str) -> Option<Self> {
        let digits: Vec<u16> =
            text.chars().map(|c| c.to_digit(8).map(|d| d as u16)).collect::<Option<_>>()?;
        let (sticky, rest) = match digits.as_slice() {
            [sticky @ (0 | 1), rest @ ..] if rest.len() == 3 => (*sticky, rest),
            rest if rest.len() == 3 => (0, rest),
            _ => return None,
        };
        Some(Self {
            user: Clause::set(rest[0]),
            group: Clause::set(rest[1]),
            others: Clause::set(rest[2]),
            sticky: Clause::set(sticky),
        })
    }

    fn parse_symbolic(text: &str) -> Option<Self> {
        let mut change = Self {
            user: Clause::NOTHING,
            group: Clause::NOTHING,
            others: Clause::NOTHING,
            sticky: Clause::NOTHING,
        };
        let clauses = text.trim_end_matches(|c: char| c == ',' || c.is_whitespace());
        for clause in clauses.split(',') {
            change.add_clause(clause.trim())?;
        }
        Some(change)
    }

    fn add_clause(&mut self, text: &str) -> Option<()> {
        let action_at = text.find(['+', '-', '='])?;
        let (who, rest) = text.split_at(action_at);
        let letters = rest.trim_start_matches(['+', '-', '=']);
        let action = rest[..rest.len() - letters.len()].chars().last()?;
        if letters.is_empty() || !who.chars().all(|c| "ugoa".contains(c)) {
            return None;
        }
        let mut clause = Clause { action, ..Clause::NOTHING };
        let mut sticky = 0;
        for letter in letters.chars() {
            match letter {
                'r' => clause.bits |= 4,
                'w' => clause.bits |= 2,
                'x' => clause.bits |= 1,
                'X' => clause.execute_if_sensible = true,
                't' => sticky = 1,
                _ => return None,
            }
        }
        let all = !who.contains(['u', 'g', 'o']);
        if all || who.contains('u') {
            self.user = clause;
        }
        if all || who.contains('g') {
            self.group = clause;
        }
        if all || who.contains('o') {
            self.others = clause;
            self.sticky = Clause { action, bits: sticky, execute_if_sensible: false };
        }
        Some(())
    }

    pub fn apply(&self, mode: u16, is_directory: bool) -> u16 {
        let execute_is_sensible = is_directory || mode & 0o111 != 0;
        self.sticky.apply(mode >> 9 & 1, false) << 9
            | self.user.apply(mode >> 6 & 7, execute_is_sensible) << 6
            | self.group.apply(mode >> 3 & 7, execute_is_sensible) << 3
            | self.others.apply(mode & 7, execute_is_sensible)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str, mode: u16, is_directory: bool) -> u16 {
        ModeChange::parse(text).expect(text).apply(mode, is_directory)
    }

    #[test]
    fn letters() {
        assert_eq!(symbolic(0o755), "rwxr-xr-x");
        assert_eq!(symbolic(0o1777), "rwxrwxrwt");
        assert_eq!(symbolic(0o1776), "rwxrwxrwT");
        assert_eq!(symbolic(0), "---------");
    }

    #[test]
    fn octal() {
        assert_eq!(changed("640", 0o1777, false), 0o640);
        assert_eq!(changed("0640", 0o777, false), 0o640);
        assert_eq!(changed("1755", 0, true), 0o1755);
        for wrong in ["8", "12345", "7777", "64", "", "648"] {
            assert_eq!(ModeChange::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn clauses() {
        assert_eq!(changed("u+x,g-r,o=w", 0o640, false), 0o702);
        assert_eq!(changed("a=r", 0o777, false), 0o444);
        assert_eq!(changed("+w", 0o444, false), 0o666);
        assert_eq!(changed("-w", 0o666, false), 0o444);
        assert_eq!(changed("ug+x,o-rwx", 0o666, false), 0o770);
        assert_eq!(changed("u+r,,", 0o200, false), 0o600);
        for wrong in ["u+q", "u", "u+s", "-Z", "x+r", "u+", "+"] {
            assert_eq!(ModeChange::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn execute_where_it_makes_sense() {
        assert_eq!(changed("a+X", 0o666, false), 0o666);
        assert_eq!(changed("a+X", 0o666, true), 0o777);
        assert_eq!(changed("a+X", 0o766, false), 0o777);
        assert_eq!(changed("u=rwX,go=rX", 0o600, false), 0o644);
        assert_eq!(changed("u=rwX,go=rX", 0o700, true), 0o755);
    }

    #[test]
    fn sticky_bit() {
        assert_eq!(changed("+t", 0o755, true), 0o1755);
        assert_eq!(changed("-t", 0o1755, true), 0o755);
        assert_eq!(changed("o+t", 0o770, false), 0o1770);
        assert_eq!(changed("u+t", 0o770, false), 0o770);
    }
}
