import torch
from torch import nn
from kdbench.models.base import FeatureModel
class B(nn.Module):
    def __init__(s,i,o,st):
        super().__init__(); s.b1=nn.BatchNorm2d(i); s.c1=nn.Conv2d(i,o,3,st,1,bias=False); s.b2=nn.BatchNorm2d(o); s.c2=nn.Conv2d(o,o,3,1,1,bias=False); s.sc=nn.Conv2d(i,o,1,st,bias=False) if i!=o else None
    def forward(s,x):
        h=s.b1(x).relu(); y=s.c2(s.b2(s.c1(h)).relu()); return y+(s.sc(h) if s.sc else x)
class W(FeatureModel):
    def __init__(s,n,k):
        super().__init__(); s.name='w'; s.num_classes=k; c=(16,32,64); s.group_channels=s.tap_channels=c
        s.stem=nn.Conv2d(3,16,3,1,1,bias=False); s.g=nn.ModuleList(); i=16
        for j,o in enumerate(c):
            bs=[]
            for q in range(n): bs.append(B(i,o,2 if j and q==0 else 1)); i=o
            s.g.append(nn.Sequential(*bs))
        s.n=nn.ModuleList(nn.BatchNorm2d(o) for o in c); s.fc=nn.Linear(64,k)
    def first_group(s,x): return s.g[0](s.stem(x))
    def tap(s,i,g): return s.n[i](g)
    def next_group(s,i,g,tap): return s.g[i+1](g)
    def classify(s,g,tap): return s.fc(tap.relu().mean((2,3)))
    def tap_norms(s): return tuple(s.n)
def create_model(name,num_classes): return W({'wrn10_1':1,'wrn16_1':2}[name],num_classes)
