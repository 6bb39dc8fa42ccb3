//! From what was read to what is evaluated: every name is known, every type is right, nothing loops.

use std::ops::Range;
use std::time::Duration;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};
use levee_api::config::nearest;

use super::super::variable::{StageField, Type, Variable};
use super::Mistake;
use super::doubt;
use super::node::{Calculation, Comparison, Node, Search};
use super::parse::Read;
use super::possible::{Constant, Given, constant, possible};

/// A tree and its type; none when something below it was wrong, and was told.
type Typed = Option<(Node, Type)>;

/// The tree, and what is valid and probably not meant.
pub(super) fn check(read: &Read, stages: &[String]) -> Result<(Node, Vec<Mistake>), Vec<Mistake>> {
    let mut checker = Checker { read, stages, mistakes: Vec::new(), doubts: Vec::new() };
    let root = checker.expression(&read.root);
    match &root {
        Some((node, Type::Bool)) => checker.decides(node),
        Some((_, kind)) => {
            let help = "a condition is true or false: compare it with something, such as: > 0.7";
            checker.wrong(checker.place(&read.root), format!("this is a {kind}"), help);
        }
        None => {}
    }
    match root {
        Some((node, _)) if checker.mistakes.is_empty() => Ok((node, checker.doubts)),
        _ => {
            checker.mistakes.sort_by_key(|mistake| mistake.at.start);
            Err(checker.mistakes)
        }
    }
}

struct Checker<'r> {
    read: &'r Read,
    stages: &'r [String],
    mistakes: Vec<Mistake>,
    /// What is valid and probably not meant.
    doubts: Vec<Mistake>,
}

/// Functions that are called by their name, and those that are called on a string.
const FUNCTIONS: &[&str] = &["duration", "known", "size"];
const METHODS: &[&str] = &["startsWith", "endsWith", "contains"];
/// What CEL expands into loops, and `has`, which asks for keys that our variables always have.
const MACROS: &[&str] = &["has", "all", "exists", "exists_one", "existsOne", "map", "filter"];

impl Checker<'_> {
    fn wrong(&mut self, at: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Typed {
        self.mistakes.push(Mistake::new(at, message, help));
        None
    }

    fn doubt(&mut self, at: Range<usize>, doubt: Option<doubt::Doubt>) {
        self.doubts.extend(doubt.map(|(message, help)| Mistake::new(at, message, help)));
    }

    /// The whole says something that depends on what happens.
    fn decides(&mut self, root: &Node) {
        let at = self.place(&self.read.root);
        let outcome = possible(root, Given::default());
        if !outcome.truth {
            let help = "take the stage out of the file if it is not wanted, or ask for what should lead to it";
            self.wrong(at, "this is never true, whatever happens: the stage is never entered", help);
        } else if !outcome.falsehood {
            let help = "leave `when` out, which says the same; to wait, write: attack.age > duration('30s')";
            self.doubt(at, Some(("this is always true, whatever happens".to_owned(), help.to_owned())));
        }
    }

    /// From the first to the last character of an expression, as far as that is known.
    fn place(&self, expression: &IdedExpr) -> Range<usize> {
        let own = self.read.place(expression.id);
        match &expression.expr {
            Expr::Select(select) => self.place(&select.operand).start..self.read.end_of_word(own.end),
            Expr::Call(call) => {
                let named = !is_operator(&call.func_name);
                let first = if named { self.read.start_of_word(own.start) } else { own.start };
                let parts = call.target.iter().map(AsRef::as_ref).chain(&call.args).map(|part| self.place(part));
                parts.fold(first..own.end, |whole, part| whole.start.min(part.start)..whole.end.max(part.end))
            }
            _ => own,
        }
    }

    fn expression(&mut self, expression: &IdedExpr) -> Typed {
        match &expression.expr {
            Expr::Literal(literal) => self.literal(literal, expression),
            Expr::Ident(_) | Expr::Select(_) => self.name(expression),
            Expr::Call(call) => self.call(call, expression),
            Expr::List(list) => self.list(&list.elements),
            Expr::Comprehension(_) => self.no_macro(self.read.place(expression.id)),
            Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => {
                let at = self.place(expression);
                self.wrong(
                    at,
                    "this does not belong into a condition",
                    "compare variables with numbers, strings and durations",
                )
            }
        }
    }

    fn no_macro(&mut self, at: Range<usize>) -> Typed {
        let word = self.read.start_of_word(at.start)..at.start.max(1);
        self.wrong(
            word,
            "macros are not allowed: nothing in a condition loops",
            "ask for one thing with `in`, such as: 'dns-amplification' in attack.vectors; and with known(x) whether a value is known",
        )
    }

    fn literal(&mut self, literal: &LiteralValue, expression: &IdedExpr) -> Typed {
        let at = self.place(expression);
        match literal {
            LiteralValue::Boolean(flag) => Some((Node::Bool(*flag.inner()), Type::Bool)),
            LiteralValue::Double(number) => Some((Node::Number(*number.inner()), Type::Number)),
            LiteralValue::Int(number) => self.whole(i128::from(*number.inner()), at),
            LiteralValue::UInt(number) => self.whole(i128::from(*number.inner()), at),
            LiteralValue::String(text) => Some((Node::Text(text.inner().to_owned()), Type::Text)),
            LiteralValue::Bytes(_) | LiteralValue::Null => self.wrong(
                at,
                "there are neither bytes nor null here",
                "use numbers, strings in quotes, true and false",
            ),
        }
    }

    /// All numbers are doubles: what a double cannot hold exactly is refused.
    fn whole(&mut self, number: i128, at: Range<usize>) -> Typed {
        const EXACT: i128 = 1 << 53;
        if (-EXACT..=EXACT).contains(&number)
            && let Ok(exact) = number.to_string().parse()
        {
            return Some((Node::Number(exact), Type::Number));
        }
        self.wrong(
            at,
            format!("{number} is too large for a number"),
            "numbers are doubles: write 1e17 if that is meant",
        )
    }

    fn list(&mut self, elements: &[IdedExpr]) -> Typed {
        let read: Vec<Option<Node>> = elements.iter().map(|element| self.of_type(element, Type::Text)).collect();
        let nodes: Option<Vec<Node>> = read.into_iter().collect();
        nodes.map(|nodes| (Node::List(nodes), Type::List))
    }

    /// A variable: `attack.pps`, `stage.edge.age`.
    fn name(&mut self, expression: &IdedExpr) -> Typed {
        let at = self.place(expression);
        let mut segments = Vec::new();
        if let Err(at) = self.segments(expression, &mut segments) {
            return match at {
                None => self.no_macro(self.read.place(expression.id)),
                Some(at) => self.wrong(at, "only variables have fields", "see docs/reference/runbook-variables.md"),
            };
        }
        let written = segments.join(".");
        if segments.first() == Some(&"stage") {
            return self.stage(&segments, at);
        }
        if let Some(variable) = Variable::ALL.iter().find(|variable| variable.name() == written) {
            return Some((Node::Variable(*variable), variable.kind()));
        }
        let names: Vec<&str> = Variable::ALL.iter().map(|variable| variable.name()).collect();
        let group = segments.first().copied().unwrap_or_default();
        let of_group: Vec<&str> = names.iter().copied().filter(|name| name.split('.').next() == Some(group)).collect();
        let help = match (near(&written, &names), of_group.is_empty()) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, false) => format!("known here: {}", of_group.join(", ")),
            (None, true) => {
                "variables begin with attack, local, uplink, stage, zone, target or now; words stand in quotes: 'web'"
                    .to_owned()
            }
        };
        self.wrong(at, format!("there is no variable `{written}`"), help)
    }

    /// The parts of a name; the place of what is none, none for the macro `has`.
    fn segments<'e>(&self, expression: &'e IdedExpr, found: &mut Vec<&'e str>) -> Result<(), Option<Range<usize>>> {
        match &expression.expr {
            Expr::Ident(name) => found.push(name),
            Expr::Select(SelectExpr { test: true, .. }) => return Err(None),
            Expr::Select(SelectExpr { operand, field, .. }) => {
                self.segments(operand, found)?;
                found.push(field);
            }
            _ => return Err(Some(self.place(expression))),
        }
        Ok(())
    }

    fn stage(&mut self, segments: &[&str], at: Range<usize>) -> Typed {
        let fields: Vec<&str> = StageField::ALL.iter().map(|field| field.name()).collect();
        let &[_, name, field] = segments else {
            let help = format!("write stage.NAME.FIELD, with one of the fields {}", fields.join(", "));
            return self.wrong(at, format!("`{}` is no variable", segments.join(".")), help);
        };
        let stage = self.stages.iter().position(|known| known == name);
        let known_field = StageField::ALL.iter().find(|known| known.name() == field);
        if stage.is_none() {
            let names: Vec<&str> = self.stages.iter().map(String::as_str).collect();
            let help = match nearest(name, &names) {
                Some(near) => format!("did you mean `stage.{near}`?"),
                None => format!("the stages of this runbook are: {}", names.join(", ")),
            };
            self.wrong(at.clone(), format!("there is no stage {name:?} in this runbook"), help);
        }
        if known_field.is_none() {
            let help = match nearest(field, &fields) {
                Some(near) => format!("did you mean `{near}`? Known: {}", fields.join(", ")),
                None => format!("known are {}", fields.join(", ")),
            };
            self.wrong(at, format!("a stage has no field `{field}`"), help);
        }
        let field = *known_field?;
        Some((Node::Stage(stage?, field), field.kind()))
    }

    fn of_type(&mut self, expression: &IdedExpr, wanted: Type) -> Option<Node> {
        let (node, kind) = self.expression(expression)?;
        if kind == wanted {
            return Some(node);
        }
        let at = self.place(expression);
        self.wrong(at, format!("a {wanted} is needed here, and this is a {kind}"), remedy(wanted));
        None
    }

    fn two(&mut self, args: &[IdedExpr], wanted: Type) -> Option<(Box<Node>, Box<Node>)> {
        let [left, right] = args else { return None };
        // Both, so that mistakes on either side are told.
        let (left, right) = (self.of_type(left, wanted), self.of_type(right, wanted));
        Some((Box::new(left?), Box::new(right?)))
    }

    fn call(&mut self, call: &CallExpr, expression: &IdedExpr) -> Typed {
        if let Some(target) = &call.target {
            return self.method(call, target, expression);
        }
        let args = call.args.as_slice();
        let number = |node| (node, Type::Number);
        match (call.func_name.as_str(), args) {
            (operators::LOGICAL_NOT, [operand]) => {
                self.of_type(operand, Type::Bool).map(|node| (Node::Not(Box::new(node)), Type::Bool))
            }
            (operators::NEGATE, [operand]) => {
                self.of_type(operand, Type::Number).map(|node| number(Node::Negate(Box::new(node))))
            }
            (operators::LOGICAL_AND, _) => {
                self.two(args, Type::Bool).map(|(left, right)| (Node::And(left, right), Type::Bool))
            }
            (operators::LOGICAL_OR, _) => {
                self.two(args, Type::Bool).map(|(left, right)| (Node::Or(left, right), Type::Bool))
            }
            (operators::CONDITIONAL, [condition, then, otherwise]) => self.conditional(condition, then, otherwise),
            (operators::EQUALS, _) => self.compare(Comparison::Equal, args),
            (operators::NOT_EQUALS, _) => self.compare(Comparison::NotEqual, args),
            (operators::LESS, _) => self.compare(Comparison::Less, args),
            (operators::LESS_EQUALS, _) => self.compare(Comparison::LessOrEqual, args),
            (operators::GREATER, _) => self.compare(Comparison::Greater, args),
            (operators::GREATER_EQUALS, _) => self.compare(Comparison::GreaterOrEqual, args),
            (operators::ADD, _) => self.calculate(Calculation::Add, args),
            (operators::SUBSTRACT, _) => self.calculate(Calculation::Subtract, args),
            (operators::MULTIPLY, _) => self.calculate(Calculation::Multiply, args),
            (operators::DIVIDE, _) => self.calculate(Calculation::Divide, args),
            (operators::MODULO, _) => self.calculate(Calculation::Remainder, args),
            (operators::IN, [element, list]) => {
                let place = self.place(element);
                let (element, list) = (self.of_type(element, Type::Text), self.of_type(list, Type::List));
                let (element, list) = (element?, list?);
                self.doubt(place, doubt::of_search(&element, &list));
                Some((Node::In(Box::new(element), Box::new(list)), Type::Bool))
            }
            (name, _) if is_operator(name) => {
                let at = self.place(expression);
                self.wrong(at, "this operator is not allowed in conditions", "see docs/reference/runbook-variables.md")
            }
            (name, _) => self.function(name, args, expression),
        }
    }

    fn conditional(&mut self, condition: &IdedExpr, then: &IdedExpr, otherwise: &IdedExpr) -> Typed {
        let condition = self.of_type(condition, Type::Bool);
        let place = self.place(otherwise);
        let (then, otherwise) = (self.expression(then), self.expression(otherwise));
        let (condition, (then, kind), (otherwise, other)) = (condition?, then?, otherwise?);
        if kind != other {
            let help = format!("both sides of : have one type; here the first is a {kind}");
            return self.wrong(place, format!("a {kind} is needed here, and this is a {other}"), help);
        }
        Some((Node::If(Box::new(condition), Box::new(then), Box::new(otherwise)), kind))
    }

    fn compare(&mut self, comparison: Comparison, args: &[IdedExpr]) -> Typed {
        let [left, right] = args else { return None };
        let place = self.place(left).start..self.place(right).end;
        let (left, right) = (self.expression(left), self.expression(right));
        let ((left, kind), (right, other)) = (left?, right?);
        let ordered = matches!(kind, Type::Number | Type::Duration);
        let equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
        if kind != other {
            let compared = |side: &IdedExpr| matches!(&side.expr, Expr::Call(call) if is_operator(&call.func_name));
            let help = match (kind, other) {
                (Type::Duration, _) | (_, Type::Duration) => "write a duration as duration('10s')".to_owned(),
                (Type::Bool, Type::Number) | (Type::Number, Type::Bool) if args.iter().any(compared) => {
                    "two comparisons are joined with &&: 5 < attack.pps && attack.pps < 10".to_owned()
                }
                _ => format!("compare a {kind} with a {kind}"),
            };
            return self.wrong(place, format!("a {kind} is compared with a {other}"), help);
        }
        if !(ordered || equality && matches!(kind, Type::Bool | Type::Text)) {
            let help = if kind == Type::List { "ask for one string with `in`" } else { "compare it with == or !=" };
            return self.wrong(place, format!("a {kind} cannot be compared like this"), help);
        }
        self.doubt(place, doubt::of_comparison(comparison, &left, &right));
        Some((Node::Compare(comparison, Box::new(left), Box::new(right)), Type::Bool))
    }

    fn calculate(&mut self, calculation: Calculation, args: &[IdedExpr]) -> Typed {
        let [left, right] = args else { return None };
        let place = self.place(left).start..self.place(right).end;
        let (left, right) = (self.expression(left), self.expression(right));
        let ((left, kind), (right, other)) = (left?, right?);
        let additive = matches!(calculation, Calculation::Add | Calculation::Subtract);
        if kind != other || !(kind == Type::Number || additive && kind == Type::Duration) {
            let help = "numbers are calculated with numbers, and durations are added to durations";
            return self.wrong(place, format!("this cannot be calculated from a {kind} and a {other}"), help);
        }
        let result = Node::Calculate(calculation, Box::new(left), Box::new(right));
        if constant(&result, Given::default()) == Constant::Unknown {
            let (message, help) = match calculation {
                Calculation::Divide | Calculation::Remainder => {
                    ("a division by zero has no result", "divide by something else")
                }
                _ if kind == Type::Duration => ("there is no time before none", "subtract less"),
                _ => ("the result is too large for a number", "write numbers below 1e308"),
            };
            return self.wrong(place, message, help);
        }
        Some((result, kind))
    }

    fn function(&mut self, name: &str, args: &[IdedExpr], expression: &IdedExpr) -> Typed {
        let at = self.place(expression);
        match (name, args) {
            ("duration", [argument]) => {
                let place = self.place(argument);
                let Expr::Literal(LiteralValue::String(text)) = &argument.expr else {
                    return self.wrong(place, "a duration is written down, not calculated", "such as: duration('10s')");
                };
                match duration(text.inner()) {
                    Some(duration) => Some((Node::Duration(duration), Type::Duration)),
                    None => {
                        let message = format!("{:?} is no duration", text.inner());
                        self.wrong(place, message, "write numbers with h, m, s or ms: duration('1m30s')")
                    }
                }
            }
            ("known", [argument]) => {
                let place = self.place(argument);
                match self.expression(argument)? {
                    (node @ (Node::Variable(_) | Node::Stage(..)), _) => {
                        Some((Node::Known(Box::new(node)), Type::Bool))
                    }
                    _ => self.wrong(
                        place,
                        "only of a variable can be asked whether it is known",
                        "such as: known(local.goodput_ratio)",
                    ),
                }
            }
            ("size", [argument]) => {
                self.of_type(argument, Type::List).map(|list| (Node::Size(Box::new(list)), Type::Number))
            }
            (name, _) if MACROS.contains(&name) => self.no_macro(self.read.place(expression.id)),
            (name, _) if FUNCTIONS.contains(&name) => self.wrong(
                at,
                format!("`{name}` takes one argument, and here are {}", args.len()),
                "such as: duration('10s')",
            ),
            (name, _) => {
                let help = match nearest(name, FUNCTIONS) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => {
                        format!("functions are {}; {} are called on strings", FUNCTIONS.join(", "), METHODS.join(", "))
                    }
                };
                self.wrong(at, format!("there is no function `{name}`"), help)
            }
        }
    }

    fn method(&mut self, call: &CallExpr, target: &IdedExpr, expression: &IdedExpr) -> Typed {
        let at = self.place(expression);
        let name = call.func_name.as_str();
        if MACROS.contains(&name) {
            return self.no_macro(self.read.place(expression.id));
        }
        let search = match name {
            "startsWith" => Search::StartsWith,
            "endsWith" => Search::EndsWith,
            "contains" => Search::Contains,
            _ => {
                let help = match nearest(name, METHODS) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("{} are called on strings", METHODS.join(", ")),
                };
                return self.wrong(at, format!("there is no function `{name}` to call on something"), help);
            }
        };
        let [argument] = call.args.as_slice() else {
            let message = format!("`{name}` takes one argument, and here are {}", call.args.len());
            return self.wrong(at, message, "such as: zone.name.startsWith('web')");
        };
        let (text, part) = (self.of_type(target, Type::Text), self.of_type(argument, Type::Text));
        Some((Node::Search(search, Box::new(text?), Box::new(part?)), Type::Bool))
    }
}

/// `_+_`, `!_`, `@in`: names that no function of ours can have.
fn is_operator(name: &str) -> bool {
    name.starts_with(['_', '!', '-', '@'])
}

/// The variable that was probably meant: the right name in the wrong group counts too.
fn near<'n>(written: &str, names: &[&'n str]) -> Option<&'n str> {
    let field = written.rsplit('.').next().unwrap_or(written);
    let same_field = names.iter().find(|name| name.rsplit('.').next() == Some(field)).copied();
    same_field.or_else(|| nearest(written, names))
}

fn remedy(wanted: Type) -> &'static str {
    match wanted {
        Type::Bool => "compare it with something, such as: > 0.7",
        Type::Number => "write a number, such as 0.7",
        Type::Text => "write a string in single quotes, such as 'udp-flood'",
        Type::List => "write a list such as ['udp-flood', 'syn-flood'], or attack.vectors",
        Type::Duration => "write a duration as duration('10s')",
    }
}

/// Go's durations, as CEL has them, without signs: `1h30m`, `1.5s`, `250ms`.
fn duration(text: &str) -> Option<Duration> {
    const UNITS: &[(&str, f64)] = &[("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3_600.0), ("m", 60.0), ("s", 1.0)];
    let mut rest = text;
    let mut seconds = 0.0;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let (unit, factor) = UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        seconds += number.parse::<f64>().ok()? * factor;
        rest = after.strip_prefix(unit)?;
        if rest.is_empty() {
            return Duration::try_from_secs_f64(seconds).ok();
        }
    }
}
