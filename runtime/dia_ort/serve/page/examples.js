// Scripts to begin with. The demo model knows no other words than these.

const DEMO_EXAMPLES = {
  Hello: `[S1] hello world. my name is dia.
[S2] good morning. welcome.`,
  Counting: `[S1] zero one two three four five.
[S2] six seven eight nine ten.`,
  "Stop and go": `[S1] stop. red. no.
[S2] go. green. yes.`,
  "A pause": `[S1] one two three. [pause 0.8s] go.`,
  "By name": `Ann: good morning. my name is dia.
Bob: hello dia. welcome.`,
};

const DIA_EXAMPLES = {
  "Two people": `[S1] Did you hear that?
[S2] No. What was it?
[S1] Nothing at all. (laughs) That is what worries me.`,
  "One voice": `[S1] Good morning, and welcome to the show. Today we talk about the sea, and about \
those who listen to it.`,
  "By name": `Ann: The train leaves at nine. (sighs) As it always does.
Bob: Then we still have time for coffee.

[pause 0.8s]

Ann: Two, please. And whatever he is having.`,
  "A story": `[S1] Nobody in the village knew how old the clock was. It had no hands. [pause 0.6s] \
And still, every evening, somebody came and wound it up.
[S2] And what did it do then?
[S1] It waited.`,
};

const EXAMPLES = config.model === "demo" ? DEMO_EXAMPLES : DIA_EXAMPLES;
